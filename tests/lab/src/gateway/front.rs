//! One client from its first byte to its end: TLS, the password, the verdict, the relay.
//! The verdict itself is made in `signin`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::backend::{Backend, Role};
use super::message::{self, ASK_FOR_PASSWORD, Fatal, First, Startup};
use super::{relay, signin};
use crate::faults::{On, Outcome};
use crate::state::LabState;
use crate::tokens::Unverified;

/// As the server's own `authentication_timeout`.
const SIGN_IN_WITHIN: Duration = Duration::from_secs(60);
/// The first byte of a TLS handshake that nobody asked for (`sslnegotiation=direct`).
const TLS_HANDSHAKE: u8 = 0x16;

/// What all connections share.
pub(super) struct Front {
    pub(super) state: Arc<LabState>,
    pub(super) backend: Backend,
    pub(super) tls: TlsAcceptor,
}

/// A client that has shown that it may sign in.
enum Admitted {
    ByToken,
    ByPassword(String),
}

impl Front {
    pub(super) async fn serve(&self, mut stream: TcpStream, peer: IpAddr) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let sign_in = async {
            let Some(mut stream) = self.encrypt(&mut stream, peer).await? else {
                return Ok(None);
            };
            let startup = match message::read_first(&mut stream).await? {
                Some(First::Startup(startup)) => startup,
                Some(First::Cancel(request)) => {
                    self.backend.cancel(&request).await?;
                    return Ok(None);
                }
                _ => return Ok(None),
            };
            let admitted = self.admit(&mut stream, &startup).await?;
            anyhow::Ok(admitted.map(|admitted| (stream, startup, admitted)))
        };
        let signed_in = timeout(SIGN_IN_WITHIN, sign_in).await;
        match signed_in.context("the client took too long to sign in")?? {
            None => Ok(()),
            Some((stream, startup, Admitted::ByToken)) => self.relay(stream, &startup).await,
            Some((stream, startup, Admitted::ByPassword(password))) => {
                self.relay_password(stream, &startup, &password).await
            }
        }
    }

    /// None if the client did not want TLS and was served or refused.
    async fn encrypt<'a>(
        &self,
        stream: &'a mut TcpStream,
        peer: IpAddr,
    ) -> anyhow::Result<Option<TlsStream<&'a mut TcpStream>>> {
        let mut first = [0];
        stream.peek(&mut first).await?;
        if first != [TLS_HANDSHAKE] && !self.negotiate(stream, peer).await? {
            return Ok(None);
        }
        let stream = self.tls.accept(stream).await.context("TLS handshake")?;
        Ok(Some(stream))
    }

    /// Whether the client asked for TLS.
    async fn negotiate(&self, stream: &mut TcpStream, peer: IpAddr) -> anyhow::Result<bool> {
        loop {
            match message::read_first(stream).await? {
                Some(First::AskTls) => {
                    stream.write_all(b"S").await?;
                    return Ok(true);
                }
                Some(First::AskGss) => stream.write_all(b"N").await?,
                Some(First::Cancel(request)) => {
                    self.backend.cancel(&request).await?;
                    return Ok(false);
                }
                Some(First::Startup(Startup { user, database, .. })) => {
                    signin::no_encryption(&peer.to_string(), &user, &database)
                        .send(stream)
                        .await?;
                    return Ok(false);
                }
                None => return Ok(false),
            }
        }
    }

    /// Asks for the password and judges it. None if the client was refused, or left.
    async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        startup: &Startup,
    ) -> anyhow::Result<Option<Admitted>> {
        stream.write_all(&ASK_FOR_PASSWORD).await?;
        stream.flush().await?;
        let Some(password) = message::read_password(stream).await? else {
            return Ok(None);
        };
        let token = Unverified::parse(&password);
        let client = token.as_ref().and_then(|token| token.claim("appid"));
        let effects = self
            .state
            .faults
            .take(On::Gateway, client, Some(&startup.user));
        tokio::time::sleep(effects.delay).await;
        let judged = match effects.outcome {
            None => {
                self.judge(startup, password, effects.clock_skew_seconds)
                    .await
            }
            Some(Outcome::SqlError { sql_state, message }) => Err(Fatal {
                code: sql_state,
                message,
            }),
            Some(outcome) => {
                misbehave(stream, &outcome).await?;
                return Ok(None);
            }
        };
        match judged {
            Ok(admitted) => Ok(Some(admitted)),
            Err(fatal) => {
                tracing::debug!("refused `{}`: {}", startup.user, fatal.message);
                fatal.send(stream).await?;
                Ok(None)
            }
        }
    }

    async fn judge(
        &self,
        startup: &Startup,
        password: String,
        clock_skew_seconds: i64,
    ) -> Result<Admitted, Fatal> {
        let role = self.backend.role(&startup.user).await.map_err(|error| {
            tracing::debug!("cannot look up `{}`: {error:#}", startup.user);
            Fatal::new("57P03", "the database system is not available")
        })?;
        let binding = match role {
            Role::Absent => return Err(signin::no_such_role(&startup.user)),
            Role::Password => return Ok(Admitted::ByPassword(password)),
            Role::Entra(binding) => Some(binding),
            Role::Unbound => None,
        };
        let claims = self
            .state
            .check_token(&password, clock_skew_seconds)
            .map_err(signin::token_refused)?;
        let binding = binding.ok_or_else(|| signin::unbound(&startup.user))?;
        signin::check(&startup.user, &binding, &claims, &self.state.directory())?;
        Ok(Admitted::ByToken)
    }

    async fn relay<S>(&self, stream: S, startup: &Startup) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut server = self.backend.socket().await?;
        server.write_all(&startup.raw).await?;
        relay::relay(stream, server, &startup.user, &self.state.stats).await;
        Ok(())
    }

    /// The server itself checks the password and answers.
    async fn relay_password<S>(
        &self,
        stream: S,
        startup: &Startup,
        password: &str,
    ) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut server = self.backend.loopback().await?;
        server.write_all(&startup.raw).await?;
        let kind = server.read_u8().await?;
        let content = message::read_content(&mut server).await?;
        let mut stream = stream;
        if message::frame(kind, &content) == ASK_FOR_PASSWORD {
            let answer = [password.as_bytes(), &[0]].concat();
            server.write_all(&message::frame(b'p', &answer)).await?;
        } else {
            ensure!(kind == b'E', "the server did not ask for a password");
            stream.write_all(&message::frame(kind, &content)).await?;
        }
        relay::relay(stream, server, &startup.user, &self.state.stats).await;
        Ok(())
    }
}

/// Ends the sign-in as a fault orders.
async fn misbehave<S: AsyncWrite + Unpin>(stream: &mut S, outcome: &Outcome) -> anyhow::Result<()> {
    let answer: &[u8] = match outcome {
        Outcome::Cut => &[b'R', 0, 0],
        Outcome::Garbage => b"HTTP/1.1 400 Bad Request\r\n\r\n",
        _ => &[],
    };
    stream.write_all(answer).await?;
    stream.flush().await?;
    Ok(())
}
