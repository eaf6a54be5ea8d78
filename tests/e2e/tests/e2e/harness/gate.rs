//! A proxy to a registry that can be held: answers stop after so many bytes, until it is opened.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// The proxy. It ends with this value.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    state: Arc<GateState>,
}

#[derive(Debug)]
struct GateState {
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
            state: Arc::new(GateState {
                left: Mutex::new(Some(bytes)),
                changed: Condvar::new(),
                held: AtomicBool::new(false),
                ended: AtomicBool::new(false),
            }),
        };
        let state = gate.state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if state.ended.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else {
                    continue;
                };
                state.join(client, server);
            }
        });
        gate
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether an answer is being held.
    pub(crate) fn holds(&self) -> bool {
        self.state.held.load(Ordering::SeqCst)
    }

    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        *self.state.left.lock().unwrap() = None;
        self.state.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.open();
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
    }
}

impl GateState {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let (Ok(mut from), Ok(mut to)) = (client.try_clone(), server.try_clone()) else {
            return;
        };
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let state = self.clone();
        std::thread::spawn(move || state.back(server, client));
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
