//! The one image of the node, an OCI archive made of this machine's own programs and the libraries
//! they are linked to: no registry is asked.
//! Must not run what it packs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::postgres;

/// Pods name it with `imagePullPolicy: Never`.
pub const NAME: &str = "localhost/lab:1";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Writes `image.tar` in `dir`, with these programs on its PATH.
pub(super) fn write(dir: &Path, programs: &[&str]) -> Result<()> {
    let rootfs = dir.join("rootfs");
    fill(&rootfs, programs)?;
    let layout = dir.join("image");
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let layer = dir.join("layer.tar");
    pack(&rootfs, &layer)?;
    let layer = fs::read(&layer)?;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        // What a pod's first container does: nothing.
        "config": {"Entrypoint": ["/bin/sleep", "infinity"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": blob(&layout, CONFIG, config.to_string().as_bytes())?,
        "layers": [blob(&layout, LAYER, &layer)?],
    });
    let mut entry = blob(&layout, MANIFEST, manifest.to_string().as_bytes())?;
    if let Some(entry) = entry.as_object_mut() {
        let names = json!({"io.containerd.image.name": NAME});
        entry.insert("annotations".to_owned(), names);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )?;
    pack(&layout, &dir.join("image.tar"))?;
    for folder in [rootfs, layout] {
        fs::remove_dir_all(folder)?;
    }
    Ok(fs::remove_file(dir.join("layer.tar"))?)
}

/// Every program at its own path (its libraries may be sought from there), and linked from /bin.
fn fill(rootfs: &Path, programs: &[&str]) -> Result<()> {
    let mut files = BTreeSet::new();
    fs::create_dir_all(rootfs.join("bin"))?;
    for folder in ["etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(rootfs.join(folder))?;
    }
    fs::set_permissions(rootfs.join("tmp"), Permissions::from_mode(0o1777))?;
    for name in programs {
        let program = find(name)?;
        files.extend(libraries(&program)?);
        let link = rootfs.join("bin").join(name);
        if link != inside(rootfs, &program) {
            symlink(&program, link)?;
        }
        files.insert(program);
    }
    for file in files {
        let copy = inside(rootfs, &file);
        if let Some(folder) = copy.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0::/tmp:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n",
    )?;
    Ok(fs::write(
        rootfs.join("etc/nsswitch.conf"),
        "hosts: files\n",
    )?)
}

fn inside(rootfs: &Path, path: &Path) -> PathBuf {
    rootfs.join(path.strip_prefix("/").unwrap_or(path))
}

/// psql is that of the server: Debian's in /usr/bin is a script.
fn find(name: &str) -> Result<PathBuf> {
    if name == "psql" {
        return postgres::program("psql");
    }
    let folders = ["/bin", "/usr/bin"].iter();
    let mut found = folders.map(|folder| Path::new(folder).join(name));
    let found = found.find(|path| path.exists());
    let found = found.with_context(|| format!("there is no {name} in /bin or /usr/bin"))?;
    Ok(found.canonicalize()?)
}

/// What the program is linked to, its loader too. `ldd` names each library as `name => path (at)`.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    ensure!(
        output.status.success(),
        "ldd {}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8(output.stdout)?;
    Ok(paths(&text))
}

fn paths(ldd: &str) -> Vec<PathBuf> {
    let words = ldd.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let output = Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .arg(".")
        .output()
        .context("cannot run tar")?;
    ensure!(
        output.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Writes a blob and returns its descriptor.
fn blob(layout: &Path, kind: &str, bytes: &[u8]) -> Result<Value> {
    let digest = digest(bytes);
    fs::write(layout.join("blobs").join(digest.replace(':', "/")), bytes)?;
    Ok(json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_read_from_ldd() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        let paths: Vec<_> = paths(said);
        assert_eq!(
            paths,
            ["/lib/x/libc.so.6", "/lib64/ld.so.2"].map(PathBuf::from)
        );
    }
}
