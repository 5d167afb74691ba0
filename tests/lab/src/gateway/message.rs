//! The few messages of PostgreSQL's protocol that the gateway itself reads and writes.
//! It decides nothing.

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// As the server's own limit.
const STARTUP_LIMIT: usize = 10_000;
const PASSWORD_LIMIT: usize = 65_535;

/// `AuthenticationCleartextPassword`.
pub(super) const ASK_FOR_PASSWORD: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 3];

/// What a client begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    AskTls,
    AskGss,
    /// To be passed on as it is.
    Cancel(Vec<u8>),
    Startup(Startup),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Startup {
    /// To be passed on as it is.
    pub(super) raw: Vec<u8>,
    pub(super) user: String,
    pub(super) database: String,
}

/// An error that ends the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fatal {
    pub(super) code: String,
    pub(super) message: String,
}

impl Fatal {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        for (kind, text) in [
            (b'S', "FATAL"),
            (b'V', "FATAL"),
            (b'C', &self.code),
            (b'M', &self.message),
        ] {
            fields.push(kind);
            fields.extend(text.bytes().filter(|byte| *byte != 0));
            fields.push(0);
        }
        fields.push(0);
        frame(b'E', &fields)
    }

    pub(super) async fn send<W: AsyncWrite + Unpin>(&self, to: &mut W) -> anyhow::Result<()> {
        to.write_all(&self.encode()).await?;
        to.flush().await?;
        to.shutdown().await?;
        Ok(())
    }
}

/// One message: its type, its length, its content.
pub(super) fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).unwrap_or(u32::MAX);
    let mut message = vec![kind];
    message.extend(length.to_be_bytes());
    message.extend(content);
    message
}

/// None if the client left.
pub(super) async fn read_first<R: AsyncRead + Unpin>(
    from: &mut R,
) -> anyhow::Result<Option<First>> {
    let Ok(length) = from.read_u32().await else {
        return Ok(None);
    };
    let size = usize::try_from(length)?;
    ensure!(
        (8..=STARTUP_LIMIT).contains(&size),
        "invalid length of startup packet"
    );
    let code = from.read_u32().await?;
    let mut content = vec![0; size - 8];
    from.read_exact(&mut content).await?;
    let mut raw = length.to_be_bytes().to_vec();
    raw.extend(code.to_be_bytes());
    raw.extend(&content);
    Ok(Some(match code {
        SSL_REQUEST => First::AskTls,
        GSS_REQUEST => First::AskGss,
        CANCEL_REQUEST => First::Cancel(raw),
        _ => First::Startup(startup(raw, &content).context("invalid startup packet layout")?),
    }))
}

fn startup(raw: Vec<u8>, content: &[u8]) -> Option<Startup> {
    let mut texts = content.split(|byte| *byte == 0);
    let (mut user, mut database) = (None, None);
    while let Some(name) = texts.next().filter(|name| !name.is_empty()) {
        let value = String::from_utf8(texts.next()?.to_vec()).ok()?;
        match name {
            b"user" => user = Some(value),
            b"database" => database = Some(value),
            _ => {}
        }
    }
    let user = user.filter(|user| !user.is_empty())?;
    Some(Startup {
        raw,
        database: database.unwrap_or_else(|| user.clone()),
        user,
    })
}

/// The answer to the question for a password. None if the client left.
pub(super) async fn read_password<R: AsyncRead + Unpin>(
    from: &mut R,
) -> anyhow::Result<Option<String>> {
    let Ok(kind) = from.read_u8().await else {
        return Ok(None);
    };
    if kind == b'X' {
        return Ok(None);
    }
    let content = read_content(from).await?;
    if kind != b'p' {
        bail!("expected a password, got a message of type {kind}");
    }
    let text = content
        .strip_suffix(&[0])
        .context("invalid password packet")?;
    Ok(Some(String::from_utf8(text.to_vec()).map_err(|_| {
        anyhow::anyhow!("the password is not UTF-8")
    })?))
}

/// A message's length and content, its type already read.
pub(super) async fn read_content<R: AsyncRead + Unpin>(from: &mut R) -> anyhow::Result<Vec<u8>> {
    let length = usize::try_from(from.read_u32().await?)?;
    ensure!(
        (4..=PASSWORD_LIMIT).contains(&length),
        "invalid message length"
    );
    let mut content = vec![0; length - 4];
    from.read_exact(&mut content).await?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 8).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), content].concat()
    }

    #[tokio::test]
    async fn startup_tells_user_and_database_and_keeps_its_bytes() {
        let raw = packet(0x0003_0000, b"user\0Prod DB Readonly\0options\0-c a=b\0\0");
        let first = read_first(&mut raw.as_slice()).await.unwrap();
        assert_eq!(
            first,
            Some(First::Startup(Startup {
                raw,
                user: "Prod DB Readonly".into(),
                database: "Prod DB Readonly".into(),
            }))
        );
    }

    #[tokio::test]
    async fn nonsense_is_refused_without_reading_on() {
        let long = [0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0];
        assert!(read_first(&mut long.as_slice()).await.is_err());
        let nobody = packet(0x0003_0000, b"database\0x\0\0");
        assert!(read_first(&mut nobody.as_slice()).await.is_err());
        assert_eq!(read_first(&mut [].as_slice()).await.unwrap(), None);
    }

    #[test]
    fn an_error_has_its_four_fields() {
        let bytes = Fatal::new("28000", "no").encode();
        assert_eq!(bytes, b"E\0\0\0\x1eSFATAL\0VFATAL\0C28000\0Mno\0\0");
    }
}
