//! Hearing when somebody removes packet filter rules.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
};

use super::message::{attributes, split};
use super::{BUFFER, read_text};

/// The group of news about packet filters, as a bit (`NFNLGRP_NFTABLES` is 7).
const NEWS: u32 = 1 << 6;
/// Messages about packet filters (`NFNL_SUBSYS_NFTABLES` is 10), the upper half of their kind.
const FILTERS: u16 = 10 << 8;
/// A table, a chain or a rule is gone (`NFT_MSG_DELTABLE`, `…DELCHAIN`, `…DELRULE`).
const GONE: [u16; 3] = [FILTERS | 2, FILTERS | 5, FILTERS | 8];
/// In each of them, the table's name.
const TABLE_NAME: u16 = 1;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// A socket that hears of changes to the packet filters of its network namespace.
#[derive(Debug)]
pub struct FilterNews {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Names of tables from which something was removed, or which were; none when all was quiet.
    From(BTreeSet<String>),
    /// So much happened that not all was heard.
    Unknown,
}

impl FilterNews {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, NEWS))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER],
        })
    }

    /// Waits for news, at most this long, and no longer than until `end` can be read or is closed
    /// on its other side.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&mut self, limit: Duration, end: impl AsFd) -> Result<Removed> {
        let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
        let mut watched = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&end, PollFlags::IN),
        ];
        match poll(&mut watched, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return Ok(Removed::From(BTreeSet::new())),
            other => other?,
        };
        let mut tables = BTreeSet::new();
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match recv(&self.socket, self.buffer.as_mut_slice(), flags) {
                Ok((length, whole)) if whole <= length => {
                    tables.extend(removed_from(&self.buffer[..length]));
                }
                Ok(_) | Err(Errno::NOBUFS) => return Ok(Removed::Unknown),
                Err(Errno::AGAIN) => return Ok(Removed::From(tables)),
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn removed_from(bytes: &[u8]) -> impl Iterator<Item = String> {
    split(bytes)
        .filter(|(kind, _, _)| GONE.contains(kind))
        .filter_map(|(_, _, body)| {
            attributes(body.get(HEADER..)?)
                .find(|(kind, _)| *kind == TABLE_NAME)
                .map(|(_, name)| read_text(name))
        })
}
