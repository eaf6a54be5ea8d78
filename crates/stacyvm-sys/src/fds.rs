//! Sending open descriptors to another process together with a packet of bytes.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::{Errno, Result, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors that one packet carries.
pub const MAX_DESCRIPTORS: usize = 64;

/// Sends one packet. Never raises SIGPIPE.
///
/// # Errors
/// `EINVAL` for more than [`MAX_DESCRIPTORS`]; `EPIPE` when the other side is gone; otherwise the error
/// of the system call.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(Errno::INVAL);
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let sent = retry_on_intr(|| {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(
            socket.as_fd(),
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Errno::MSGSIZE)
    }
}

/// Receives one packet into `buffer`. Returns its length and its descriptors (close-on-exec). Length 0
/// without a descriptor means that the other side is gone.
///
/// # Errors
/// `EMSGSIZE` when the packet or its descriptors did not fit; otherwise the error of the system call.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(Errno::MSGSIZE);
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::pipe;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socket pair")
    }

    #[test]
    fn carries_bytes_and_descriptors() {
        let (left, right) = pair();
        let (reader, writer) = pipe().expect("a pipe");
        send(&left, b"take this", &[writer.as_fd()]).expect("send");
        drop(writer);
        let mut buffer = [0; 64];
        let (length, mut descriptors) = receive(&right, &mut buffer).expect("receive");
        assert_eq!(&buffer[..length], b"take this");
        assert_eq!(descriptors.len(), 1);
        let mut received = File::from(descriptors.remove(0));
        received.write_all(b"through").expect("write");
        drop(received);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
    }

    #[test]
    fn a_packet_that_does_not_fit_is_an_error_and_a_closed_peer_is_not() {
        let (left, right) = pair();
        send(&left, &[7; 100], &[]).expect("send");
        assert_eq!(
            receive(&right, &mut [0; 10]).map(|_| ()),
            Err(Errno::MSGSIZE)
        );
        drop(left);
        let (length, descriptors) = receive(&right, &mut [0; 10]).expect("end of file");
        assert_eq!((length, descriptors.len()), (0, 0));
        assert_eq!(send(&right, b"x", &[]), Err(Errno::PIPE));
    }
}
