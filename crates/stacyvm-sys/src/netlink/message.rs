//! Writing and reading the messages of a route socket (netlink(7), `include/uapi/linux/netlink.h`).
//!
//! Numbers have the machine's byte order; everything starts at a multiple of 4 bytes.

use rustix::io::{Errno, Result};

/// Size of the buffer for an answer, bytes; the kernel fills 32 KiB when it lists.
pub(super) const BUFFER_SIZE: usize = 64 * 1024;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct rtattr`.
const ATTRIBUTE: usize = 4;
/// Marks an attribute that contains others.
const NESTED: u16 = 1 << 15;

/// A request under construction.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

/// A nested attribute that is still open.
#[derive(Debug)]
#[must_use]
pub(super) struct Open(usize);

impl Message {
    /// A request of this kind that will be answered, with more flags.
    pub(super) fn new(kind: u16, flags: i32) -> Self {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        let flags = u16::try_from(flags).expect("netlink flags have 16 bits");
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        Self { bytes }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.pad();
    }

    /// A `struct ifinfomsg`: the interface, and flags with the mask of those meant.
    pub(super) fn link_header(&mut self, device: u32, flags: u32, mask: u32) {
        self.raw(&[0; 4]);
        for word in [device, flags, mask] {
            self.raw(&word.to_ne_bytes());
        }
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTRIBUTE + value.len()).expect("attributes here are short");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(value);
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    pub(super) fn open(&mut self, kind: u16) -> Open {
        let open = Open(self.bytes.len());
        self.bytes(kind | NESTED, &[]);
        open
    }

    pub(super) fn close(&mut self, open: Open) {
        let length = u16::try_from(self.bytes.len() - open.0).expect("attributes here are short");
        self.bytes[open.0..open.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// The whole message.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("messages here are short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

/// A number of 32 bits.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn short(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// Splits received bytes into messages: kind, sequence, content. A truncated message is left out.
pub(super) fn split(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = number(bytes)? as usize;
        let message = bytes.get(..length)?;
        let found = (
            short(message.get(4..)?)?,
            number(message.get(8..)?)?,
            message.get(HEADER..)?,
        );
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// Splits a message's content into attributes: kind, value. A truncated attribute is left out.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes)?);
        let attribute = bytes.get(..length)?;
        let found = (
            short(attribute.get(2..)?)? & !NESTED,
            attribute.get(ATTRIBUTE..)?,
        );
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// The result in a `struct nlmsgerr`; 0 is success.
pub(super) fn answer(body: &[u8]) -> Result<()> {
    match number(body).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(code.wrapping_neg())),
        None => Err(Errno::BADMSG),
    }
}
