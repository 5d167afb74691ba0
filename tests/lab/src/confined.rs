//! Limits for a child as the kubelet sets them: memory by a control group (version 1 or 2), and
//! descriptors. Must not know what the child is.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use crate::process;

/// What a child may use. All that is started with one of it or its clones shares its memory.
#[derive(Clone, Debug)]
pub struct Limits {
    memory: Arc<Memory>,
    descriptors: Option<u64>,
}

#[derive(Debug)]
struct Memory {
    bytes: u64,
    group: Option<Group>,
    /// The most that one process has had, as far as it was looked at.
    peak: AtomicU64,
}

/// A control group that ends with the last of its holders.
#[derive(Debug)]
struct Group {
    dir: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Limits {
    /// With a group where one can be made; otherwise the error says why there is none, and
    /// `without_group` leaves it at a look at what the child has used.
    pub fn new(memory: u64, descriptors: Option<u64>) -> Result<Self> {
        Ok(Self::with(memory, Some(Group::new(memory)?), descriptors))
    }

    /// Descriptors alone are limited.
    pub fn without_group(memory: u64, descriptors: Option<u64>) -> Self {
        Self::with(memory, None, descriptors)
    }

    fn with(bytes: u64, group: Option<Group>, descriptors: Option<u64>) -> Self {
        let memory = Memory {
            bytes,
            group,
            peak: AtomicU64::new(0),
        };
        Self {
            memory: Arc::new(memory),
            descriptors,
        }
    }

    /// The memory that may be used, in bytes.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes
    }

    /// How often the kernel has killed a process because of the limit.
    pub fn kills(&self) -> u64 {
        self.memory.group.as_ref().map_or(0, Group::kills)
    }

    /// Looks at what a process has used; each does so before it is ended.
    pub fn look(&self, pid: u32) {
        let used = used(pid).unwrap_or(0);
        self.memory.peak.fetch_max(used, Ordering::Relaxed);
    }

    /// The most memory that one process has had, in bytes: as much as there is, if it was killed for it.
    pub fn peak(&self) -> u64 {
        let seen = self.memory.peak.load(Ordering::Relaxed);
        if self.kills() > 0 {
            seen.max(self.memory.bytes)
        } else {
            seen
        }
    }

    /// Whether a process was killed for its memory, or had more than it may.
    pub fn exceeded(&self) -> bool {
        self.kills() > 0 || self.peak() > self.memory.bytes
    }

    /// The program and arguments that set the limits and then become `command`.
    pub(crate) fn wrap(&self, command: Vec<OsString>) -> Vec<OsString> {
        let mut wrapped: Vec<OsString> = Vec::new();
        if let Some(group) = &self.memory.group {
            let script = "echo $$ >\"$0\" && exec \"$@\"";
            wrapped.extend(["sh", "-c", script].map(OsString::from));
            wrapped.push(group.dir.join("cgroup.procs").into_os_string());
        }
        if let Some(descriptors) = self.descriptors {
            wrapped.extend([
                "prlimit".into(),
                format!("--nofile={descriptors}:{descriptors}").into(),
            ]);
            wrapped.push("--".into());
        }
        wrapped.extend(command);
        wrapped
    }
}

impl Group {
    fn new(memory: u64) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("no list of mounts")?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut why = "no memory controller is mounted".to_owned();
        for (version, parent) in parents(&mounts, &own) {
            match Self::under(&parent, version, memory) {
                Ok(group) => return Ok(group),
                Err(error) => why = format!("{error:#}"),
            }
        }
        bail!("{why}")
    }

    fn under(parent: &Path, version: Version, memory: u64) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if version == Version::Two {
            // Given already, or not to be had here: then there is no file for the limit.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("entra-lab-{}-{n}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let group = Self { dir, version };
        let (limit, with_swap) = match version {
            Version::One => (
                "memory.limit_in_bytes",
                ("memory.memsw.limit_in_bytes", memory),
            ),
            Version::Two => ("memory.max", ("memory.swap.max", 0)),
        };
        let file = group.dir.join(limit);
        ensure!(file.exists(), "{} is not there", file.display());
        fs::write(&file, memory.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        // Not every kernel counts swap.
        let _ = fs::write(group.dir.join(with_swap.0), with_swap.1.to_string());
        Ok(group)
    }

    fn kills(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }
}

/// So long a group may take to become empty once all in it were killed.
const EMPTY: Duration = Duration::from_secs(10);

impl Drop for Group {
    /// Kills what is left in it, which may be children of the one that was started, and removes it.
    fn drop(&mut self) {
        let start = Instant::now();
        while let Err(error) = fs::remove_dir(&self.dir) {
            if error.kind() == ErrorKind::NotFound {
                return;
            }
            if start.elapsed() > EMPTY {
                eprintln!("{} cannot be removed: {error}", self.dir.display());
                return;
            }
            let left = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
            for id in left.lines().filter_map(|id| id.trim().parse().ok()) {
                process::signal(id, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where a group may be made, the best place first: under this process's own group, else under the
/// mount's root, which is all that a container sees of it.
fn parents(mounts: &str, own: &str) -> Vec<(Version, PathBuf)> {
    let mut found = Vec::new();
    for mount in mounts.lines() {
        let Some((head, tail)) = mount.split_once(" - ") else {
            continue;
        };
        let Some(point) = head.split(' ').nth(4).map(Path::new) else {
            continue;
        };
        let mut kind = tail.split(' ');
        let version = match (kind.next(), kind.nth(1)) {
            (Some("cgroup"), Some(options)) if options.split(',').any(|o| o == "memory") => {
                Version::One
            }
            (Some("cgroup2"), _) => Version::Two,
            _ => continue,
        };
        let path = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_ours = match version {
                Version::One => controllers.split(',').any(|c| c == "memory"),
                Version::Two => controllers.is_empty(),
            };
            is_ours.then(|| path.trim_start_matches('/'))
        });
        let inside = path
            .map(|path| point.join(path))
            .filter(|path| path.is_dir());
        found.extend(inside.map(|inside| (version, inside)));
        found.push((version, point.to_path_buf()));
    }
    // A machine with both has its memory in version 1.
    found.sort_by_key(|(version, _)| *version == Version::Two);
    found
}

/// The most memory that a process has had in its life, in bytes; `None`: it is gone.
fn used(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Bytes of a quantity as Kubernetes writes it: `256Mi`.
pub fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match quantity.strip_prefix(digits)? {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Process, Spec};

    const ONE: &str = "31 23 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn groups_are_made_where_the_memory_controller_is() {
        let found = parents(ONE, "4:memory:/no-such-group\n0::/");
        let places = [
            (Version::One, PathBuf::from("/sys/fs/cgroup/memory")),
            (Version::Two, PathBuf::from("/sys/fs/cgroup/unified")),
        ];
        assert_eq!(found.first(), places.first());
        assert_eq!(found.last(), places.last());
        assert_eq!(parents("", ""), Vec::new());
    }

    #[test]
    fn quantities_are_bytes() {
        assert_eq!(bytes("256Mi"), Some(256 << 20));
        assert_eq!(bytes("1Gi"), Some(1 << 30));
        assert_eq!(bytes("12"), Some(12));
        for odd in ["", "Mi", "1.5Gi", "1X"] {
            assert_eq!(bytes(odd), None, "{odd}");
        }
    }

    #[tokio::test]
    async fn a_child_has_its_limits_and_is_killed_above_them() {
        let Ok(limits) = Limits::new(32 << 20, Some(77)) else {
            eprintln!("no control groups can be made here");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        // Twice as much as it may have, in one string.
        let script = "ulimit -n; x=$(head -c 67108864 /dev/zero | tr '\\0' x); echo survived";
        let spec = Spec {
            name: "a greedy child",
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            envs: Vec::new(),
            dir: dir.path().into(),
            log: dir.path().join("log"),
            limits: Some(limits.clone()),
        };
        let mut child = Process::start(spec).unwrap();
        let status = child.wait(Duration::from_secs(60)).await.unwrap();
        let said = fs::read_to_string(child.log()).unwrap();
        assert!(
            said.starts_with("77\n") && !said.contains("survived"),
            "{said}"
        );
        assert!(!status.success());
        assert!(limits.kills() > 0 && limits.exceeded());
        let group = limits.memory.group.as_ref().unwrap().dir.clone();
        drop((child, limits));
        assert!(!group.exists());
    }
}
