//! Connecting to a port with a socket of the server, without the agent.

use stacyvm_provider::ops::OpError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{World, need_root};

/// Says its port, and answers one connection with what it heard.
const PROGRAM: &str = "import socket
listener = socket.create_server(('127.0.0.1', 0))
with open('port', 'w') as file: print(listener.getsockname()[1], file=file)
peer, who = listener.accept()
peer.sendall((who[0] + ' ' + peer.recv(100).decode()).encode())
peer.close()";

#[tokio::test]
async fn a_port_is_reached_without_the_agent_and_of_that_sandbox_alone() {
    need_root!();
    let world = World::start().await;
    let (one, other) = (world.spawn().await, world.spawn().await);
    let start = format!(
        "python3 -c \"{PROGRAM}\" >/dev/null 2>&1 & until [ -s port ]; do sleep 0.02; done; cat port"
    );
    let port: u16 = one.sh(&start).await.ok().trim().parse().unwrap();
    // The same number in another sandbox, and on the host, is another port.
    let elsewhere = other.ops.connect_port(port).await;
    assert!(
        matches!(elsewhere, Err(OpError::NotFound(_))),
        "{elsewhere:?}"
    );
    let mut connection = one.ops.connect_port(port).await.unwrap();
    assert!(connection.is_socket());
    connection.write_all(b"hello").await.unwrap();
    let mut heard = String::new();
    connection.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "127.0.0.1 hello");
    world.finish().await;
}
