//! Requests to the metrics port that are never finished, by the thousand.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Running;
use crate::hostile::kept::Kept;

const COUNT: usize = 1_500;
/// More at once would only measure the machine.
const A_TIME: usize = 200;
const AGAIN: Duration = Duration::from_millis(500);
const CONNECT: Duration = Duration::from_secs(1);
const HALF: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Half: ";

#[allow(clippy::unnecessary_wraps, reason = "as the other attacks")]
pub(super) fn begin(kept: &Kept) -> Result<Running> {
    let mut running = Running::default();
    let count = std::sync::Arc::clone(&running.count);
    let addresses = kept.addresses();
    running.work.spawn(async move {
        let mut open: Vec<TcpStream> = Vec::new();
        loop {
            // Those that the other end has closed make room.
            open.retain(|stream| !closed(stream));
            let address = addresses.now().await.unwrap_or_default();
            for _ in 0..A_TIME.min(COUNT.saturating_sub(open.len())) {
                let connected = tokio::time::timeout(CONNECT, TcpStream::connect(&address)).await;
                let Ok(Ok(mut stream)) = connected else { break };
                if stream.write_all(HALF).await.is_err() {
                    break;
                }
                count.fetch_add(1, Ordering::Relaxed);
                open.push(stream);
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
    Ok(running)
}

fn closed(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0; 512]);
    !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

pub(super) fn proof(running: &Running) -> Result<String> {
    let sent = running.counted();
    ensure!(sent >= 1_000, "only {sent} half requests were sent");
    Ok(format!("{sent} half requests"))
}
