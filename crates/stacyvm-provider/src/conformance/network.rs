//! Reaching a port inside.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::harness::{Harness, WAIT_TIMEOUT, ensure_equal, ensure_error};
use super::sandbox::{Sandbox, argv, collect, finish, first_line, tell};
use crate::Capability;
use crate::ops::{ExecControl, OpError};

/// Listens on a port of its own choice, says which, and sends one connection's bytes back.
const ECHO: &str = "\
import socket
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
while True:
    data = peer.recv(65536)
    if not data:
        break
    peer.sendall(data)
peer.close()
";

/// Bytes go both ways, the end too.
pub async fn a_port_inside_is_reached(harness: &mut dyn Harness) -> Result<()> {
    let capable = harness
        .provider()
        .capabilities()
        .contains(&Capability::Forward);
    let sandbox = Sandbox::make(harness).await?;
    if !capable {
        let (_sender, inbound) = mpsc::channel(1);
        ensure_error!(
            sandbox.ops.forward(80, inbound).await,
            OpError::Unsupported(_)
        );
        return Ok(());
    }
    if sandbox.shell("python3 -c ''").await?.exit.exit_code != 0 {
        harness.skip("the image has no python3");
        return Ok(());
    }
    let mut server = sandbox.ops.exec(argv(&["python3", "-c", ECHO])).await?;
    let port = first_line(&mut server).await?.parse().context("the port")?;
    let (sender, inbound) = mpsc::channel(4);
    let outbound = sandbox.ops.forward(port, inbound).await?;
    let content: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = content.clone();
    let feeding = tokio::spawn(async move {
        for piece in sent.chunks(30_000) {
            sender.send(Bytes::copy_from_slice(piece)).await?;
        }
        // Dropping the sender is the end of what we say.
        anyhow::Ok(())
    });
    let back = tokio::time::timeout(WAIT_TIMEOUT, collect(outbound))
        .await
        .context("the connection does not end")??;
    feeding.await??;
    ensure!(
        back == content,
        "{} of {} bytes, or others",
        back.len(),
        content.len()
    );
    ensure_equal!(finish(server).await?.exit.exit_code, 0);
    Ok(())
}

/// The same as one stream, whichever loopback the server is bound to, and whether or not the bytes
/// pass the agent.
pub async fn a_port_inside_is_one_stream(harness: &mut dyn Harness) -> Result<()> {
    let capable = harness
        .provider()
        .capabilities()
        .contains(&Capability::Forward);
    let sandbox = Sandbox::make(harness).await?;
    if !capable {
        ensure_error!(sandbox.ops.connect_port(80).await, OpError::Unsupported(_));
        return Ok(());
    }
    if sandbox.shell("python3 -c ''").await?.exit.exit_code != 0 {
        harness.skip("the image has no python3");
        return Ok(());
    }
    let over_ipv6 = ECHO.replace(
        "listener = socket.create_server(('127.0.0.1', 0))\n",
        "try: listener = socket.create_server(('::1', 0), family=socket.AF_INET6)\n\
         except OSError: print(0, flush=True); raise SystemExit\n",
    );
    for program in [ECHO, &over_ipv6] {
        let mut server = sandbox.ops.exec(argv(&["python3", "-c", program])).await?;
        let port: u16 = first_line(&mut server).await?.parse().context("the port")?;
        if port == 0 {
            harness.skip("there is no IPv6 inside");
            continue;
        }
        let connection = sandbox.ops.connect_port(port).await?;
        let (mut read, mut write) = tokio::io::split(connection);
        let content: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
        let feeding = async {
            write.write_all(&content).await?;
            // The end of what we say, and not of what we hear.
            write.shutdown().await
        };
        let mut back = Vec::new();
        let both = async { tokio::join!(feeding, read.read_to_end(&mut back)) };
        let (fed, heard) = tokio::time::timeout(WAIT_TIMEOUT, both)
            .await
            .context("the connection does not end")?;
        fed?;
        heard?;
        ensure!(back == content, "{} bytes, or others", back.len());
        ensure_equal!(finish(server).await?.exit.exit_code, 0);
        // The server inside has ended.
        ensure_error!(sandbox.ops.connect_port(port).await, OpError::NotFound(_));
    }
    Ok(())
}

/// A port without a listener is an error, not a silence.
pub async fn a_closed_port_is_an_error(harness: &mut dyn Harness) -> Result<()> {
    let capable = harness
        .provider()
        .capabilities()
        .contains(&Capability::Forward);
    let sandbox = Sandbox::make(harness).await?;
    if !capable {
        return Ok(());
    }
    if sandbox.shell("python3 -c ''").await?.exit.exit_code != 0 {
        harness.skip("the image has no python3");
        return Ok(());
    }
    // A port that is bound but not listened on is free for no other program.
    let hold = "import socket,sys\ns=socket.socket()\ns.bind(('127.0.0.1',0))\nprint(s.getsockname()[1],flush=True)\nsys.stdin.read()\n";
    let mut spec = argv(&["python3", "-c", hold]);
    spec.stdin = true;
    let mut holder = sandbox.ops.exec(spec).await?;
    let port = first_line(&mut holder).await?.parse().context("the port")?;
    let (_sender, inbound) = mpsc::channel(1);
    let refused = match sandbox.ops.forward(port, inbound).await {
        Err(_) => true,
        Ok(outbound) => tokio::time::timeout(WAIT_TIMEOUT, collect(outbound))
            .await
            .context("a connection to nobody does not end")?
            .is_err(),
    };
    ensure!(refused, "a connection to nobody was no error");
    tell(&holder, ExecControl::CloseStdin).await?;
    ensure_equal!(finish(holder).await?.exit.exit_code, 0);
    Ok(())
}
