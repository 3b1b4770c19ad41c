use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test]
async fn a_request_under_way_is_answered_though_the_connections_time_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _peer) = listener.accept().await.unwrap();
        let slow = service_fn(|_request: Request<Incoming>| async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok::<_, Infallible>(text(StatusCode::OK, "late\n"))
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), slow);
        serve_for(connection, Duration::from_millis(100)).await.unwrap();
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("late\n"), "{answer:?}");
}
