//! An operator that reaches Entra only through a company's proxy, which opens TLS with a CA of its
//! own; and one that is told to go past it.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::logged_in;
use crate::fixture::{Setup, World};

/// Knows CONNECT and nothing else; remembers where it was asked to connect to.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start() -> Result<Self> {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", tcp.local_addr()?);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = tcp.accept().await {
                tokio::spawn(tunnel(client, Arc::clone(&kept)));
            }
        });
        Ok(Self { url, asked })
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

async fn tunnel(client: TcpStream, asked: Arc<Mutex<Vec<String>>>) -> Result<()> {
    let mut client = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && client.read_line(&mut head).await? > 0 {}
    let target = head.strip_prefix("CONNECT ").context("no CONNECT")?;
    let target = target.split(' ').next().unwrap_or_default().to_owned();
    asked.lock().expect("no panic").push(target.clone());
    let mut server = TcpStream::connect(target).await?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

// Red when: the proxy of the environment is not taken over (settings::Environment::read), the
// Kubernetes client takes it too (cluster::connect), or EPO_CA_BUNDLE is not read.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_go_through_the_proxy_with_its_ca_and_nothing_else_does() -> Result<()> {
    let mut world = World::with(
        "proxy",
        Setup {
            // The cloud has no CA of its own: what the proxy shows is trusted by the bundle only.
            configuration: Box::new(|configuration, _| {
                for cloud in &mut configuration.clouds {
                    cloud.ca_file = None;
                }
            }),
            operator: false,
            ..Setup::default()
        },
    )
    .await?;
    let proxy = Proxy::start().await?;
    let plain = world.options.envs.clone();
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    world.options.envs.extend([
        set("HTTPS_PROXY", &proxy.url),
        set("HTTP_PROXY", &proxy.url),
        set("NO_PROXY", "somewhere.example"),
    ]);
    world.start_operator().await?;
    let message = world
        .not_ready("server", "server", "EntraUnavailable")
        .await?;
    assert!(
        message.contains("is not trusted") && message.contains("--ca-bundle"),
        "{message}"
    );
    assert_eq!(world.token_requests(None), 0);
    world.kill_operator();
    proxy.asked();

    let bundle = world.azure.ca_file().display().to_string();
    world.options.envs.push(set("EPO_CA_BUNDLE", &bundle));
    world.start_operator().await?;
    world.apply(&world.api()).await?;
    world.ready("principal", "api").await?;
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    let authority = world.azure.authority_url().replace("https://", "");
    let asked = proxy.asked();
    assert!(!asked.is_empty(), "nobody asked the proxy");
    assert!(asked.iter().all(|target| *target == authority), "{asked:?}");
    world.kill_operator();

    world.options.envs = plain;
    world.options.envs.extend([
        set("https_proxy", &proxy.url),
        set("no_proxy", "localhost"),
        set("EPO_CA_BUNDLE", &bundle),
    ]);
    world.delete("secret", "api").await?;
    world.start_operator().await?;
    world
        .wait("secret", "api", "made again", |secret| !secret.is_null())
        .await?;
    assert_eq!(logged_in(&world, "api").await?, "orders-api");
    assert_eq!(proxy.asked(), Vec::<String>::new());
    Ok(())
}
