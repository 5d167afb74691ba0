//! Through a proxy, past a proxy, and with certificates beside the platform's.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::server::Server;
use super::{Scene, is, managed, secret};
use crate::entra::{Network, OperatorEnvironment, ProxyVariable, locked};
use crate::model::{Class, Cloud, Reason};
use crate::ports::TokenSource as _;

/// A proxy that knows CONNECT and nothing else.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://me:hunter2@{}", tcp.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let proxy = Self {
            url,
            asked: Arc::clone(&asked),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = tcp.accept().await {
                tokio::spawn(tunnel(client, Arc::clone(&asked)));
            }
        });
        proxy
    }

    fn asked(&self) -> Vec<String> {
        locked(&self.asked).clone()
    }

    fn network(&self, no_proxy: Option<&str>) -> Network {
        Network {
            proxy: Some(ProxyVariable {
                name: "HTTPS_PROXY".to_owned(),
                url: self.url.clone(),
            }),
            no_proxy: no_proxy.map(str::to_owned),
            ca_bundle: None,
        }
    }
}

async fn tunnel(client: TcpStream, asked: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut client = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        client.read_line(&mut head).await.ok().filter(|n| *n > 0)?;
    }
    let target = head.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    locked(&asked).push(head);
    let mut server = TcpStream::connect(target).await.ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .ok()?;
    Some(())
}

async fn behind(network: Network, cloud: impl Fn(&Server) -> Cloud) -> Scene {
    let server = Server::https().await;
    let cloud = Arc::new(cloud(&server));
    Scene::behind(server, cloud, OperatorEnvironment::default(), network)
}

// Red when: Network::apply leaves the proxy out, or ignores NO_PROXY.
#[tokio::test]
async fn an_authority_is_asked_through_the_proxy_unless_it_is_excepted() {
    let proxy = Proxy::start().await;
    for (no_proxy, through) in [
        (None, true),
        (Some("other.example"), true),
        (Some("other.example, localhost"), false),
        (Some("*"), false),
    ] {
        locked(&proxy.asked).clear();
        let scene = behind(proxy.network(no_proxy), Server::cloud).await;
        scene
            .broker
            .token(scene.order("orders", secret()))
            .await
            .unwrap();
        let asked = proxy.asked();
        assert_eq!(!asked.is_empty(), through, "{no_proxy:?}: {asked:?}");
        let port = scene.server.url.rsplit(':').next().unwrap().to_owned();
        for head in asked {
            assert!(
                head.starts_with(&format!("CONNECT localhost:{port} ")),
                "{head}"
            );
            assert!(
                head.to_lowercase().contains("proxy-authorization: basic"),
                "{head}"
            );
            assert!(!head.contains("client_secret"), "{head}");
        }
    }
}

// Red when: the client for IMDS takes the proxy.
#[tokio::test]
async fn imds_is_never_asked_through_a_proxy() {
    let proxy = Proxy::start().await;
    let server = Server::http().await;
    let cloud = Arc::new(Cloud {
        imds_endpoint: Some(server.url.clone()),
        ..Cloud::built_in().swap_remove(0)
    });
    let environment = OperatorEnvironment::default();
    let scene = Scene::behind(server, cloud, environment, proxy.network(None));
    scene
        .broker
        .token(scene.order("orders", managed()))
        .await
        .unwrap();
    assert!(proxy.asked().is_empty());
}

#[tokio::test]
async fn a_proxy_that_is_away_or_refuses_is_an_outage_that_names_it() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://me:hunter2@{}", closed.local_addr().unwrap());
    drop(closed);
    let network = Network {
        proxy: Some(ProxyVariable {
            name: "HTTPS_PROXY".to_owned(),
            url,
        }),
        ..Network::default()
    };
    let scene = behind(network, Server::cloud).await;
    let order = scene.order("orders", secret());
    let failure = scene.broker.token(order).await.unwrap_err();
    is(
        &failure,
        Class::Transient,
        Reason::EntraUnavailable,
        "HTTPS_PROXY",
    );
    assert!(!failure.message.contains("hunter2"), "{failure}");
    assert!(scene.server.seen().is_empty());
}

// Red when: Network::apply leaves the bundle out, or a CA file of the cloud replaces it.
#[tokio::test]
async fn a_bundle_is_trusted_beside_the_platforms_roots_and_beside_the_clouds_ca() {
    let stranger = Server::https().await;
    let own = |server: &Server| server.cloud();
    let platform = |server: &Server| Cloud {
        ca_file: None,
        ..server.cloud()
    };
    let foreign = |server: &Server| Cloud {
        ca_file: stranger.cloud().ca_file,
        ..server.cloud()
    };
    let clouds: [&dyn Fn(&Server) -> Cloud; 3] = [&own, &platform, &foreign];
    for (nth, cloud) in clouds.into_iter().enumerate() {
        for trusted in [false, true] {
            let server = Server::https().await;
            let cloud = Arc::new(cloud(&server));
            let network = Network {
                ca_bundle: server.cloud().ca_file.filter(|_| trusted),
                ..Network::default()
            };
            let environment = OperatorEnvironment::default();
            let scene = Scene::behind(server, cloud, environment, network);
            let answer = scene.broker.token(scene.order("orders", secret())).await;
            assert_eq!(answer.is_ok(), trusted || nth == 0, "{nth} {answer:?}");
            if let Err(failure) = answer {
                is(
                    &failure,
                    Class::Transient,
                    Reason::EntraUnavailable,
                    "--ca-bundle",
                );
            }
        }
    }
}
