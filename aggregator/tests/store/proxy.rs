//! A way to ClickHouse on which answers get lost and inserts arrive late.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to an insert on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The insert is done, but the connection breaks before its answer.
    AnswerLost,
    /// The client's connection breaks once it has sent everything; the insert arrives this much later.
    Late(Duration),
}

/// A proxy in front of `target`. Each insert that passes takes the next mishap; with none left, all goes well. Gives the
/// port and the mishaps still to come.
pub async fn start(
    target: &str,
    mishaps: impl IntoIterator<Item = Mishap>,
) -> (u16, Arc<Mutex<VecDeque<Mishap>>>) {
    let mishaps = Arc::new(Mutex::new(mishaps.into_iter().collect::<VecDeque<_>>()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (target, left) = (target.to_owned(), mishaps.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(pass(client, server, mishaps.clone()));
        }
    });
    (port, left)
}

async fn pass(mut client: TcpStream, mut server: TcpStream, mishaps: Arc<Mutex<VecDeque<Mishap>>>) {
    let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut losing = false;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(length @ 1..) = read else { return };
                let chunk = &from_client[..length];
                let begins_insert = chunk.starts_with(b"POST") && String::from_utf8_lossy(chunk).contains("query=INSERT");
                let mishap = if begins_insert { mishaps.lock().unwrap().pop_front() } else { None };
                match mishap {
                    Some(Mishap::Late(delay)) => return arrive_late(client, server, chunk.to_vec(), delay).await,
                    Some(Mishap::AnswerLost) => losing = true,
                    None => {}
                }
                if server.write_all(chunk).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(length @ 1..) = read else { return };
                if losing || client.write_all(&from_server[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn arrive_late(mut client: TcpStream, mut server: TcpStream, mut request: Vec<u8>, delay: Duration) {
    let mut chunk = vec![0; 1 << 16];
    // Until the last chunk of the body.
    while !request.ends_with(b"\r\n0\r\n\r\n") {
        let Ok(length @ 1..) = client.read(&mut chunk).await else { return };
        request.extend_from_slice(&chunk[..length]);
    }
    drop(client);
    tokio::time::sleep(delay).await;
    if server.write_all(&request).await.is_ok() {
        // Leaving early would cancel it.
        let _ = tokio::time::timeout(Duration::from_secs(5), server.read(&mut chunk)).await;
    }
}
