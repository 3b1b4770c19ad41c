//! What a supervisor that speaks systemd's notification protocol is told: ready, still alive, stopping.
//!
//! The protocol is a datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names, see sd_notify(3). Without that
//! variable all of it does nothing, so a program calls it wherever it runs. Nothing here ever waits: a supervisor that does
//! not read must not hold up what it supervises (the usual libraries send blocking).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Says that the program serves, in its own words, and goes on saying that it is alive where `WATCHDOG_USEC` asks for it.
/// Call it inside the runtime whose standstill the watchdog is to notice.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}\n"));
    let limit =
        env::var("WATCHDOG_USEC").ok().and_then(|limit| limit.parse().ok()).map(Duration::from_micros);
    if let Some(limit) = limit.filter(|limit| !limit.is_zero() && watchdog_is_ours()) {
        tokio::spawn(stay_alive(limit / 3));
    }
}

/// Says that the end was begun.
pub fn stopping() {
    tell("STOPPING=1\n");
}

/// The variable may have been inherited from a program that was meant.
fn watchdog_is_ours() -> bool {
    env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string())
}

async fn stay_alive(period: Duration) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell("WATCHDOG=1\n");
    }
}

fn tell(states: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, states.as_bytes()) {
        tracing::debug!(%error, "the supervisor could not be told");
    }
}

/// Sends one datagram, or fails where it would have to wait.
fn send(socket: &OsStr, datagram: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(datagram, &address).map(|_bytes| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_socket_are_reached() {
        let directory = tempfile::tempdir().expect("writable");
        let path = directory.path().join("notify");
        let name = format!("etcdmon-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("short");
        let mut buffer = [0; 64];
        for (socket, receiver) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path)),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&abstract_name)),
        ] {
            let receiver = receiver.expect("bound");
            send(&socket, b"READY=1\n").expect("sent");
            let length = receiver.recv(&mut buffer).expect("received");
            assert_eq!(&buffer[..length], b"READY=1\n");
        }
    }

    #[test]
    fn a_supervisor_that_does_not_read_holds_nobody_up() {
        let directory = tempfile::tempdir().expect("writable");
        let path = directory.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).expect("bound");
        let outcome = (0..10_000).try_for_each(|_| send(path.as_os_str(), b"WATCHDOG=1\n"));
        assert_eq!(outcome.expect_err("its queue is full").kind(), io::ErrorKind::WouldBlock);
        assert!(send(directory.path().as_os_str(), b"x").is_err());
    }
}
