//! The system calls on a connected socket. None of them waits, whatever the socket's mode.

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags};
use std::net::TcpStream;

/// Appends what fits into the spare capacity of `bytes`; 0 at the end.
pub(super) fn receive(socket: &TcpStream, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
    let received =
        retry_on_intr(|| rustix::net::recv(socket, spare_capacity(bytes), RecvFlags::DONTWAIT));
    received.map(|(_, count)| count)
}

/// Whether something is there: 1 byte, 0 at the end. Nothing is consumed.
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
