//! Bytes between a client that has signed in and its server, counted on the way.
//! It changes nothing.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, split};

use crate::stats::{ConnectionGuard, Stats};

const CHUNK: usize = 16 * 1024;

/// Ends when either side does.
pub(super) async fn relay<C, S>(client: C, server: S, role: &str, stats: &Arc<Stats>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = split(client);
    let (mut from_server, mut to_server) = split(server);
    let mut counter = Counter::new(role, stats);
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => {}
        _ = pump(&mut from_server, &mut to_client, &mut counter) => {}
    }
    let _ = to_client.shutdown().await;
    let _ = to_server.shutdown().await;
}

async fn pump<R, W>(from: &mut R, to: &mut W, counter: &mut Counter<'_>) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        // Counted first: who has an answer finds it in the counters.
        counter.feed(bytes);
        to.write_all(bytes).await?;
        to.flush().await?;
    }
}

/// Follows the messages of a server through chunks of any size.
struct Counter<'a> {
    role: &'a str,
    stats: &'a Arc<Stats>,
    open: Option<ConnectionGuard>,
    header: Vec<u8>,
    /// Bytes of content still to come.
    left: usize,
}

impl<'a> Counter<'a> {
    fn new(role: &'a str, stats: &'a Arc<Stats>) -> Self {
        Self {
            role,
            stats,
            open: None,
            header: Vec::with_capacity(5),
            left: 0,
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match *self.header.as_slice() {
                [kind, ..] if self.header.len() == 5 => {
                    self.message(kind, *first);
                    self.header.clear();
                }
                _ if self.left == 0 => {
                    self.header.push(*first);
                    bytes = rest;
                    self.read_length();
                }
                _ => {
                    let skipped = self.left.min(bytes.len());
                    self.left -= skipped;
                    bytes = bytes.get(skipped..).unwrap_or_default();
                }
            }
        }
    }

    fn read_length(&mut self) {
        if let [_, a, b, c, d] = *self.header.as_slice() {
            let length = u32::from_be_bytes([a, b, c, d]);
            self.left = usize::try_from(length).unwrap_or(0).saturating_sub(4);
            if self.left == 0 {
                self.header.clear();
            }
        }
    }

    /// A message whose content begins with this byte.
    fn message(&mut self, kind: u8, first: u8) {
        match (kind, first) {
            // CommandComplete
            (b'C', _) => self.stats.statement(),
            // DataRow
            (b'D', _) => self.stats.row(),
            // ReadyForQuery: the first ends the sign-in, later idle ones end a transaction.
            (b'Z', _) if self.open.is_none() => {
                self.open = Some(self.stats.connection_opened(self.role));
            }
            (b'Z', b'I') => self.stats.transaction(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::frame;
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream = [
            frame(b'R', &[0, 0, 0, 0]),
            frame(b'Z', b"I"),
            frame(b'n', b""),
            frame(b'D', b"Z\0\0\0\x05IC\0\0\0"),
            frame(b'C', b"SELECT 1\0"),
            frame(b'Z', b"T"),
            frame(b'C', b"COMMIT\0"),
            frame(b'Z', b"I"),
        ]
        .concat();
        for size in 1..=stream.len() {
            let stats = Arc::new(Stats::default());
            let mut counter = Counter::new("r", &stats);
            stream.chunks(size).for_each(|chunk| counter.feed(chunk));
            let seen = stats.snapshot();
            assert_eq!(
                (
                    seen.connections.open,
                    seen.statements,
                    seen.transactions,
                    seen.rows
                ),
                (1, 2, 1, 1)
            );
            drop(counter);
            assert_eq!(stats.snapshot().connections.open, 0);
        }
    }
}
