//! RSA keys as PEM files: made once, kept, the same for all who ask.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

/// A new RSA key of 2048 bits as PKCS#8 PEM.
pub fn generate_rsa_key() -> anyhow::Result<String> {
    let key = rsa::PrivateKey::new(&mut rand::rng(), 2048)?;
    Ok(key.to_pkcs8_pem(LineEnding::LF)?.to_string())
}

/// The RSA key (PKCS#8 PEM) in a file, made on first use. Several processes may ask at once: all get the same.
pub fn rsa_key_in(path: &Path) -> anyhow::Result<String> {
    if let Ok(pem) = std::fs::read_to_string(path) {
        return Ok(pem);
    }
    let folder = path.parent().context("a key's file is in a folder")?;
    let write = || -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(generate_rsa_key()?.as_bytes())?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(()),
            // Another process was faster: its key is as good.
            Err(_) if path.exists() => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    write().with_context(|| format!("cannot keep an RSA key in {}", path.display()))?;
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
