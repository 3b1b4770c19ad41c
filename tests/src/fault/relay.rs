//! A TCP relay in the path of a connection, that can cut it in each of the ways in which a network does.
//!
//! Bytes of a held direction wait where TCP leaves them, in the socket buffers, and go on when the cut is over, as
//! retransmitted ones do. What is over a reset is lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes that are moved at a time.
const CHUNK: usize = 16 << 10;

/// How long the far end may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Connections are reset, new ones as well.
    Reset,
    /// Nothing gets through in either direction, and nobody is told.
    Silent,
    /// What the client says arrives; the answers do not. At the end the connections are reset: the answers are lost.
    AnswersLost,
    /// The answers arrive; what the client says does not, until the cut is over.
    RequestsHeld,
}

/// What the relay does now.
#[derive(Debug, Clone, Copy)]
struct State {
    forth: bool,
    back: bool,
    refuse: bool,
    /// Connections of an earlier one are reset.
    generation: u64,
}

/// A running relay. Dropping it resets its connections.
#[derive(Debug)]
pub struct Relay {
    /// Where clients connect, `127.0.0.1:…`.
    pub address: String,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Begins to listen; each connection is carried on to `target`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the relay")?;
        let address = listener.local_addr()?.to_string();
        let (state, states) = watch::channel(State { forth: true, back: true, refuse: false, generation: 0 });
        let task = tokio::spawn(accept(listener, target.into(), states));
        Ok(Self { address, state, task })
    }

    /// Cuts.
    pub fn cut(&self, cut: Cut) {
        self.state.send_modify(|state| {
            state.forth = cut == Cut::AnswersLost;
            state.back = cut == Cut::RequestsHeld;
            state.refuse = cut == Cut::Reset;
            state.generation += u64::from(cut == Cut::Reset);
        });
    }

    /// Ends the cut.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            let answers_lost = state.forth && !state.back;
            *state = State {
                forth: true,
                back: true,
                refuse: false,
                generation: state.generation + u64::from(answers_lost),
            };
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: Arc<str>, states: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _peer)) = accepted else { continue };
                connections.spawn(carry(client, target.clone(), states.clone()));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn carry(client: TcpStream, target: Arc<str>, mut states: watch::Receiver<State>) {
    let generation = states.borrow_and_update().generation;
    // Whatever ends this connection, its client sees a reset, not an orderly end.
    let _best_effort = client.set_zero_linger();
    if states.borrow().refuse {
        return;
    }
    let mut cut = states.clone();
    let end = cut.wait_for(|state| state.generation != generation);
    tokio::select! {
        // First: what a lost direction still holds must not slip through in the moment of the reset.
        biased;
        _reset = end => {}
        _ended = exchange(client, &target, states) => {}
    }
}

async fn exchange(mut client: TcpStream, target: &str, states: watch::Receiver<State>) -> Result<()> {
    // A network that carries nothing carries no handshake either.
    states.clone().wait_for(|state| state.forth && state.back).await?;
    let mut server = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(target)).await??;
    server.set_zero_linger()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(from_client, to_server, states.clone(), |state| state.forth),
        pump(from_server, to_client, states, |state| state.back),
    )?;
    Ok(())
}

/// Moves bytes of one direction while that is open; an end of stream is passed on.
async fn pump(
    mut from: tcp::ReadHalf<'_>,
    mut to: tcp::WriteHalf<'_>,
    mut states: watch::Receiver<State>,
    open: fn(&State) -> bool,
) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        states.wait_for(open).await?;
        let count = tokio::select! {
            count = from.read(&mut chunk) => count?,
            _changed = states.changed() => continue,
        };
        // What was read in the moment of the cut waits here.
        states.wait_for(open).await?;
        if count == 0 {
            return to.shutdown().await.map_err(Into::into);
        }
        to.write_all(&chunk[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    /// A relay before a server that answers every byte with itself, and a client's connection to it.
    async fn echo() -> (Relay, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start(&server.local_addr().unwrap().to_string()).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let client = TcpStream::connect(&relay.address).await.unwrap();
        (relay, client)
    }

    async fn say(client: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        client.write_u8(byte).await?;
        client.read_u8().await
    }

    #[tokio::test]
    async fn a_silent_cut_holds_bytes_until_it_is_over() {
        let (relay, mut client) = echo().await;
        assert_eq!(say(&mut client, 1).await.unwrap(), 1);
        relay.cut(Cut::Silent);
        assert!(timeout(SOON, say(&mut client, 2)).await.is_err(), "nothing comes back");
        relay.heal();
        assert_eq!(client.read_u8().await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_reset_ends_connections_and_refuses_new_ones() {
        let (relay, mut client) = echo().await;
        assert_eq!(say(&mut client, 1).await.unwrap(), 1);
        relay.cut(Cut::Reset);
        assert!(timeout(SOON, client.read_u8()).await.unwrap().is_err());
        let mut next = TcpStream::connect(&relay.address).await.unwrap();
        assert!(timeout(SOON, next.read_u8()).await.unwrap().is_err());
        relay.heal();
        let mut healed = TcpStream::connect(&relay.address).await.unwrap();
        assert_eq!(say(&mut healed, 3).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn lost_answers_stay_lost() {
        let (relay, mut client) = echo().await;
        assert_eq!(say(&mut client, 1).await.unwrap(), 1);
        relay.cut(Cut::AnswersLost);
        assert!(timeout(SOON, say(&mut client, 2)).await.is_err());
        relay.heal();
        assert!(timeout(SOON, client.read_u8()).await.unwrap().is_err(), "reset, the answer is gone");
    }
}
