//! TLS to a server whose single messages have a limit: it is seen from their first five bytes, before
//! anything of them is kept. Must not know what the messages mean.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The longest single message (one row, one error) that is taken from a server. All rows of an answer
/// together have limits of their own.
pub(super) const LONGEST_MESSAGE: u32 = 8 * 1024 * 1024;

type Inner = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type InnerStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// Opens such connections; a clone reports to the same flag.
#[derive(Clone)]
pub struct BoundedTls {
    tls: MakeRustlsConnect,
    exceeded: Arc<AtomicBool>,
}

impl BoundedTls {
    /// With a flag of its own.
    pub fn new(tls: MakeRustlsConnect) -> Self {
        Self {
            tls,
            exceeded: Arc::default(),
        }
    }

    /// Becomes true when a message was too long; the connection has ended then.
    pub fn exceeded(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.exceeded)
    }
}

impl MakeTlsConnect<Socket> for BoundedTls {
    type Stream = Bounded<InnerStream>;
    type TlsConnect = BoundedConnect;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<BoundedConnect, Self::Error> {
        let inner = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.tls, domain)?;
        let exceeded = Arc::clone(&self.exceeded);
        Ok(BoundedConnect { inner, exceeded })
    }
}

/// One connection being opened.
pub struct BoundedConnect {
    inner: Inner,
    exceeded: Arc<AtomicBool>,
}

impl TlsConnect<Socket> for BoundedConnect {
    type Stream = Bounded<InnerStream>;
    type Error = <Inner as TlsConnect<Socket>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        let Self { inner, exceeded } = self;
        let connecting = inner.connect(stream);
        let bounded = move |stream: Result<InnerStream, Self::Error>| {
            stream.map(|stream| Bounded::new(stream, exceeded))
        };
        connecting.map(bounded).boxed()
    }
}

/// A stream of messages of a server.
pub struct Bounded<S> {
    stream: S,
    exceeded: Arc<AtomicBool>,
    frames: Frames,
}

impl<S> Bounded<S> {
    fn new(stream: S, exceeded: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            exceeded,
            frames: Frames::default(),
        }
    }
}

/// Where in a stream of messages we are: each has a byte for its sort and four for its length, which
/// count themselves.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the header that were seen.
    seen: u8,
    length: u32,
    /// Bytes that the present message still has.
    left: u32,
}

impl Frames {
    /// Takes in what was read; false once a message is too long.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let passed = (self.left as usize).min(bytes.len());
                self.left -= u32::try_from(passed).unwrap_or(self.left);
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            if self.seen > 0 {
                self.length = (self.length << 8) | u32::from(byte);
            }
            self.seen += 1;
            if self.seen == 5 {
                if self.length > LONGEST_MESSAGE {
                    return false;
                }
                self.left = self.length.saturating_sub(4);
                (self.seen, self.length) = (0, 0);
            }
            bytes = rest;
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = &polled {
            let new = buffer.filled().get(before..).unwrap_or_default();
            if !this.frames.take(new) {
                buffer.set_filled(before);
                this.exceeded.store(true, Ordering::Release);
                let text = "a message of the server is too long";
                return Poll::Ready(Err(io::Error::other(text)));
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Bounded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn message(length: u32) -> Vec<u8> {
        [b"D".as_slice(), &length.to_be_bytes()].concat()
    }

    // Red when: `Bounded::poll_read` does not ask `Frames`: one row of a gigabyte is kept before anybody
    // can look at it.
    #[tokio::test]
    async fn a_message_that_is_too_long_ends_the_connection_at_its_header() {
        let (mut server, ours) = tokio::io::duplex(64);
        let exceeded = Arc::new(AtomicBool::new(false));
        let mut ours = Bounded::new(ours, Arc::clone(&exceeded));
        let sent = [message(5), vec![1], message(LONGEST_MESSAGE + 1)].concat();
        tokio::io::AsyncWriteExt::write_all(&mut server, &sent)
            .await
            .unwrap();
        let mut read = Vec::new();
        assert!(ours.read_to_end(&mut read).await.is_err());
        assert!(exceeded.load(Ordering::Acquire));
    }

    proptest! {
        // Red when: `Frames` loses its place where a read ends within a header or a body.
        #[test]
        fn where_reads_end_makes_no_difference(
            lengths in proptest::collection::vec(0_usize..300, 1..20),
            cuts in proptest::collection::vec(1_usize..50, 1..30),
            long in any::<bool>(),
        ) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.extend(message(u32::try_from(length + 4).unwrap()));
                bytes.extend(vec![255; *length]);
            }
            bytes.extend(message(if long { u32::MAX } else { LONGEST_MESSAGE }));
            let (mut frames, mut rest, mut fine) = (Frames::default(), bytes.as_slice(), true);
            for cut in cuts.iter().cycle() {
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                fine &= frames.take(head);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(fine, !long);
        }
    }
}
