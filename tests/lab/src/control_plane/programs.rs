//! Where the three programs keep their files, and the flags they are started with.
//! Must not start anything.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process::{Spec, free_port};

/// Everything by its user; `RequestReceived` would count each request twice.
pub(super) const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// Sockets, by names relative to the folder the programs run in, because the path of a Unix socket
/// must be short. The number is asked for by etcd's syntax and means nothing.
const ETCD: &str = "unix://etcd.sock:0";
const PEERS: &str = "unix://peers.sock:0";

/// What the operator's world needs. No deployment controller: nothing here would run its pods.
const CONTROLLERS: &str = "namespace-controller,serviceaccount-controller,\
garbage-collector-controller,clusterrole-aggregation-controller,\
validatingadmissionpolicy-status-controller";

pub(super) struct Layout {
    dir: PathBuf,
    programs: PathBuf,
    port: u16,
}

impl Layout {
    pub(super) fn new(dir: PathBuf, programs: PathBuf) -> Result<Self> {
        Ok(Self {
            dir,
            programs,
            port: free_port()?,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(super) fn etcd(&self) -> Spec {
        let args = [
            "--name=lab".to_owned(),
            "--data-dir=etcd".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={PEERS}"),
            format!("--initial-advertise-peer-urls={PEERS}"),
            format!("--initial-cluster=lab={PEERS}"),
            "--log-level=warn".to_owned(),
        ];
        self.spec("etcd", args)
    }

    pub(super) fn apiserver(&self) -> Spec {
        let url = self.url();
        let args = [
            format!("--etcd-servers={ETCD}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            "--tls-cert-file=server.crt".to_owned(),
            "--tls-private-key-file=server.key".to_owned(),
            "--client-ca-file=ca.crt".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--kubelet-client-certificate=kubelet-client.crt".to_owned(),
            "--kubelet-client-key=kubelet-client.key".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--service-account-issuer={url}"),
            "--service-account-key-file=service-accounts.key".to_owned(),
            "--service-account-signing-key-file=service-accounts.key".to_owned(),
            // There is no network behind it: no address of ours is a service's.
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--audit-policy-file=audit.yaml".to_owned(),
            "--audit-log-path=audit.log".to_owned(),
            "--audit-log-maxsize=0".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.spec("kube-apiserver", args)
    }

    pub(super) fn controller_manager(&self) -> Spec {
        let args = [
            "--kubeconfig=controller-manager.kubeconfig".to_owned(),
            "--service-account-private-key-file=service-accounts.key".to_owned(),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--controller-shutdown-timeout=1s".to_owned(),
            "--namespace-sync-period=30s".to_owned(),
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
            format!("--controllers={CONTROLLERS}"),
        ];
        self.spec("kube-controller-manager", args)
    }

    fn spec(&self, name: &'static str, args: impl IntoIterator<Item = String>) -> Spec {
        Spec {
            name,
            program: self.programs.join(name),
            args: args.into_iter().map(OsString::from).collect(),
            envs: Vec::new(),
            dir: self.dir.clone(),
            log: self.file(&format!("{name}.log")),
            limits: None,
        }
    }
}
