use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap as AxumHeaders, StatusCode as AxumStatus};
use axum::response::{IntoResponse as _, Response as AxumResponse};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};

use super::super::family::Families;
use super::*;

/// A receiver that answers as told, one answer after the other, the last one for ever.
#[derive(Default)]
struct Receiver {
    answers: Vec<(u16, Vec<u8>)>,
    asked: AtomicUsize,
    taken: Mutex<Vec<(Option<String>, ExportMetricsServiceRequest)>>,
}

async fn take(
    State(receiver): State<Arc<Receiver>>,
    headers: AxumHeaders,
    body: axum::body::Bytes,
) -> AxumResponse {
    let number = receiver.asked.fetch_add(1, Ordering::SeqCst).min(receiver.answers.len() - 1);
    let (status, answer) = receiver.answers[number].clone();
    if status == 200 {
        let key = headers.get("x-key").map(|value| value.to_str().unwrap().to_owned());
        let request = ExportMetricsServiceRequest::decode(body).unwrap();
        receiver.taken.lock().unwrap().push((key, request));
    }
    (AxumStatus::from_u16(status).unwrap(), [("retry-after", "0")], answer).into_response()
}

async fn listen(answers: Vec<(u16, Vec<u8>)>) -> (SocketAddr, Arc<Receiver>) {
    let receiver = Arc::new(Receiver { answers, ..Receiver::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/v1/metrics", post(take)).with_state(Arc::clone(&receiver));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, receiver)
}

fn settings(address: SocketAddr, interval: Duration) -> Settings {
    // Another test may have installed it already; all install the same.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Settings {
        endpoint: format!("http://{address}/v1/metrics"),
        headers_file: None,
        interval,
        authority_file: None,
        key_pair: None,
    }
}

/// Pushes one gauge until `enough` says so; what was counted by then.
async fn push(settings: &Settings, mut enough: impl FnMut(&Counters) -> bool) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    let page = || {
        let mut families = Families::default();
        families.gauge("a", "A", &[(Cow::Borrowed("k"), "v".to_owned())], 1.0);
        families.into_vec()
    };
    let push = Push::new(settings, "me".to_owned(), Arc::new(page), Arc::clone(&counters)).unwrap();
    let end = CancellationToken::new();
    let task = tokio::spawn(push.run(end.clone()));
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    while !enough(&counters) {
        assert!(tokio::time::Instant::now() < patience, "{counters:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    end.cancel();
    task.await.unwrap();
    counters
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn what_a_receiver_puts_off_is_sent_again() {
    let (address, receiver) = listen(vec![(503, b"later".to_vec()), (200, Vec::new())]).await;
    let directory = tempfile::tempdir().unwrap();
    let headers = directory.path().join("headers");
    std::fs::write(&headers, "# a comment\nX-Key: secret\n\n").unwrap();
    let settings = Settings { headers_file: Some(headers), ..settings(address, Duration::from_secs(3_600)) };
    let counters = push(&settings, |counters| read(&counters.delivered) == 1).await;
    assert_eq!((read(&counters.failures), read(&counters.waiting)), (1, 0));
    let taken = receiver.taken.lock().unwrap();
    assert_eq!((taken.len(), taken[0].0.as_deref()), (1, Some("secret")));
    let metrics = &taken[0].1.resource_metrics[0].scope_metrics[0].metrics;
    assert_eq!(metrics[0].name, "a");
}

#[tokio::test]
async fn what_a_receiver_refuses_is_dropped_and_counted() {
    let (address, receiver) = listen(vec![(400, b"no".to_vec()), (200, Vec::new())]).await;
    let settings = settings(address, Duration::from_millis(20));
    let counters = push(&settings, |counters| read(&counters.delivered) >= 1).await;
    assert_eq!((read(&counters.dropped_refused), read(&counters.failures)), (1, 0));
    assert!(receiver.asked.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn what_a_receiver_leaves_out_is_counted() {
    let partial =
        ExportMetricsPartialSuccess { rejected_data_points: 1, error_message: "too old".to_owned() };
    let answer = ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (address, _receiver) = listen(vec![(200, answer)]).await;
    let settings = settings(address, Duration::from_secs(3_600));
    let counters = push(&settings, |counters| read(&counters.dropped_rejected) == 1).await;
    assert_eq!(read(&counters.delivered), 0);
}

#[tokio::test]
async fn a_receiver_that_is_away_holds_nobody_up_and_the_end_is_counted() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let settings = settings(address, Duration::from_millis(20));
    let counters =
        push(&settings, |counters| read(&counters.waiting) >= 3 && read(&counters.failures) >= 1).await;
    assert_eq!(read(&counters.waiting), 0);
    assert!(read(&counters.dropped_end) >= 3, "{counters:?}");
}

#[test]
fn a_full_queue_drops_the_oldest() {
    let counters = Arc::new(Counters::default());
    let mut queue = Queue { requests: VecDeque::new(), bytes: 0, counters: Arc::clone(&counters) };
    let large = |points| Request { body: vec![0; QUEUE_BYTES / 2].into(), points };
    queue.push(vec![large(1), large(2), large(4)]);
    assert_eq!((read(&counters.dropped_full), read(&counters.waiting)), (1, 6));
    assert_eq!(queue.pop().map(|request| request.points), Some(2));
    queue.push(vec![Request { body: vec![0; QUEUE_BYTES + 1].into(), points: 8 }]);
    assert_eq!((read(&counters.dropped_full), queue.bytes), (13, 0), "one that never fits goes as well");
}

#[test]
fn headers_are_checked_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("headers");
    std::fs::write(&path, "Authorization: Bearer a:b\nx-scope:  9 \n").unwrap();
    let headers = check_headers(&path).unwrap();
    assert_eq!(
        (&headers["authorization"], &headers["x-scope"]),
        (&HeaderValue::from_static("Bearer a:b"), &HeaderValue::from_static("9"))
    );
    assert!(!format!("{headers:?}").contains("Bearer"), "{headers:?}");
    for (bad, line) in
        [("Authorization Bearer", "line 1"), ("a: b\nspaced name: c", "line 2"), ("a: \u{7}", "line 1")]
    {
        std::fs::write(&path, bad).unwrap();
        let error = check_headers(&path).unwrap_err();
        assert!(error.contains(line) && !error.contains("Bearer"), "{error}");
    }
    assert!(check_headers(&directory.path().join("none")).unwrap_err().contains("can't be read"));
}
