//! A way to a registry that can be held: what comes back stops after so many bytes, until it is
//! let go.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Ends with this.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Bytes that may still come back; none when it is open.
    left: Mutex<Option<u64>>,
    changed: Condvar,
    held: AtomicBool,
    ended: AtomicBool,
}

impl Gate {
    /// One that lets `bytes` come back and then holds every answer.
    pub(crate) fn before(target: SocketAddr, bytes: u64) -> Self {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gate = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                left: Mutex::new(Some(bytes)),
                changed: Condvar::new(),
                held: AtomicBool::new(false),
                ended: AtomicBool::new(false),
            }),
        };
        let shared = gate.shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else {
                    continue;
                };
                shared.join(client, server);
            }
        });
        gate
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether an answer is being held.
    pub(crate) fn holds(&self) -> bool {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        *self.shared.left.lock().unwrap() = None;
        self.shared.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.open();
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let (Ok(mut from), Ok(mut to)) = (client.try_clone(), server.try_clone()) else {
            return;
        };
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let shared = self.clone();
        std::thread::spawn(move || shared.back(server, client));
    }

    fn back(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            self.pass(read as u64);
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Returns when so many bytes may pass.
    fn pass(&self, bytes: u64) {
        let mut left = self.left.lock().unwrap();
        loop {
            match &mut *left {
                None => return,
                Some(rest) if *rest >= bytes => {
                    *rest -= bytes;
                    return;
                }
                Some(_) => {
                    self.held.store(true, Ordering::SeqCst);
                    left = self.changed.wait(left).unwrap();
                }
            }
        }
    }
}
