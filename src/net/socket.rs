//! The system calls on a connected socket. None of them waits, in any mode of the socket.

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags};
use std::net::TcpStream;

/// Receives into the spare capacity of `bytes` and returns the number of bytes: 0 at the end.
pub(super) fn receive(socket: &TcpStream, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
    let received =
        retry_on_intr(|| rustix::net::recv(socket, spare_capacity(bytes), RecvFlags::DONTWAIT));
    received.map(|(_, count)| count)
}

/// Looks at the next byte without consuming it: 1 if there is one, 0 at the end.
pub(super) fn peek(socket: &TcpStream) -> Result<usize, Errno> {
    let mut byte = [0_u8; 1];
    rustix::net::recv(socket, &mut byte[..], RecvFlags::DONTWAIT | RecvFlags::PEEK)
        .map(|(_, count)| count)
}

/// Sends from the start of `bytes`; how many were taken.
/// With `end_follows` a last short segment waits for the end of the connection, to carry it, or for
/// the next acknowledgement.
pub(super) fn send(socket: &TcpStream, bytes: &[u8], end_follows: bool) -> Result<usize, Errno> {
    let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, end_follows);
    retry_on_intr(|| rustix::net::send(socket, bytes, flags))
}
