//! Watching for the removal of packet filter rules.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
};

use super::entries::read_text;
use super::message::{BUFFER_SIZE, attributes, split};

/// The multicast group of packet filter events, as a bit (`NFNLGRP_NFTABLES` is 7).
const EVENTS: u32 = 1 << 6;
/// Messages about packet filters (`NFNL_SUBSYS_NFTABLES` is 10), the upper half of their kind.
const FILTERS: u16 = 10 << 8;
/// Kinds that report a removed table, chain or rule (`NFT_MSG_DELTABLE`, `…DELCHAIN`, `…DELRULE`).
const REMOVALS: [u16; 3] = [FILTERS | 2, FILTERS | 5, FILTERS | 8];
/// The attribute with the table's name, in all of these messages.
const TABLE_NAME: u16 = 1;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// A socket that receives events about the packet filters of its network namespace.
#[derive(Debug)]
pub struct FilterWatch {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// Where packet filter rules were removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovedFrom {
    /// Names of tables that were removed or from which something was removed; empty when nothing was.
    Tables(BTreeSet<String>),
    /// Events were lost, because too many came at once.
    Unknown,
}

impl FilterWatch {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn open() -> Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, EVENTS))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_SIZE],
        })
    }

    /// Waits for events, at most for `limit`, and only until `end` can be read or its other side is
    /// closed.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn wait(&mut self, limit: Duration, end: impl AsFd) -> Result<RemovedFrom> {
        let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
        let mut watched = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&end, PollFlags::IN),
        ];
        match poll(&mut watched, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return Ok(RemovedFrom::Tables(BTreeSet::new())),
            other => other?,
        };
        let mut tables = BTreeSet::new();
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match recv(&self.socket, self.buffer.as_mut_slice(), flags) {
                Ok((length, whole)) if whole <= length => {
                    tables.extend(removed_from(&self.buffer[..length]));
                }
                Ok(_) | Err(Errno::NOBUFS) => return Ok(RemovedFrom::Unknown),
                Err(Errno::AGAIN) => return Ok(RemovedFrom::Tables(tables)),
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn removed_from(bytes: &[u8]) -> impl Iterator<Item = String> {
    split(bytes)
        .filter(|(kind, _, _)| REMOVALS.contains(kind))
        .filter_map(|(_, _, body)| {
            attributes(body.get(HEADER..)?)
                .find(|(kind, _)| *kind == TABLE_NAME)
                .map(|(_, name)| read_text(name))
        })
}
