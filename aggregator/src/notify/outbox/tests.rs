//! Against a real receiver on loopback that does what its script says.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State as AxumState;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::notify::channel::{Channel, Webhook};

/// What the receiver does with the next requests; after that it takes everything.
#[derive(Clone, Copy)]
enum Act {
    Status(u16),
    Quiet(u16, &'static str),
    Hang,
    Redirect,
}

#[derive(Clone, Default)]
struct Script {
    acts: Arc<Mutex<Vec<Act>>>,
    taken: Arc<Mutex<Vec<(String, Value, std::time::Instant)>>>,
    asked: Arc<Mutex<Vec<std::time::Instant>>>,
}

impl Script {
    fn of(acts: &[Act]) -> Self {
        let script = Self::default();
        script.acts.lock().unwrap().extend(acts.iter().rev());
        script
    }

    fn taken(&self) -> Vec<(String, Value, std::time::Instant)> {
        self.taken.lock().unwrap().clone()
    }
}

async fn receive(AxumState(script): AxumState<Script>, headers: HeaderMap, body: String) -> Response {
    script.asked.lock().unwrap().push(std::time::Instant::now());
    let act = script.acts.lock().unwrap().pop();
    match act {
        Some(Act::Hang) => std::future::pending().await,
        Some(Act::Status(status)) => {
            (StatusCode::from_u16(status).unwrap(), "the receiver's words").into_response()
        }
        Some(Act::Quiet(status, after)) => {
            (StatusCode::from_u16(status).unwrap(), [("retry-after", after)]).into_response()
        }
        Some(Act::Redirect) => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        None => {
            let key = headers["idempotency-key"].to_str().unwrap().to_owned();
            let body = serde_json::from_str(&body).expect("a JSON body");
            script.taken.lock().unwrap().push((key, body, std::time::Instant::now()));
            StatusCode::OK.into_response()
        }
    }
}

async fn receiver(listener: TcpListener, script: Script) -> tokio::task::JoinHandle<()> {
    let router = Router::new().route("/hook", post(receive)).with_state(script);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
}

struct Bench {
    _directory: tempfile::TempDir,
    state: State,
    orders: mpsc::Sender<Order>,
    outcomes: mpsc::Receiver<Outcome>,
    receiver: String,
    url: String,
    end: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    next: u32,
}

impl Bench {
    async fn start(url: &str) -> Self {
        etcdmon_service::process::install_tls_provider();
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let webhook = Webhook::new(url).unwrap();
        let receiver = webhook.id().to_owned();
        let (orders, inbox) = mpsc::channel(64);
        let (outcome_sender, outcomes) = mpsc::channel(64);
        let outbox =
            Outbox::new(vec![Arc::new(webhook)], state.clone(), Clock::start(), inbox, outcome_sender);
        let end = CancellationToken::new();
        let task = tokio::spawn(outbox.run(end.clone()));
        Self {
            _directory: directory,
            state,
            orders,
            outcomes,
            receiver,
            url: url.to_owned(),
            end,
            task,
            next: 0,
        }
    }

    /// Commits a notice and hands it over.
    async fn notice(&mut self, group: &str) -> String {
        self.next += 1;
        let notice = Notice {
            delivery: format!("delivery-{}", self.next),
            receiver: self.receiver.clone(),
            group: group.to_owned(),
            created_at_ns: chrono::Utc::now().timestamp_nanos_opt().unwrap(),
            body: json!({"alerts": [{"status": "firing", "fingerprint": "00000000000000aa"}], "n": self.next}),
        };
        let numbers = self.state.commit(vec![notice.enqueue()]).await.unwrap();
        let delivery = notice.delivery.clone();
        self.orders.send(Order::Deliver(notice, Some(numbers[0]))).await.unwrap();
        delivery
    }

    async fn outcome(&mut self) -> OutcomeKind {
        let next = tokio::time::timeout(Duration::from_secs(30), self.outcomes.recv());
        next.await.expect("an outcome in time").unwrap().kind
    }

    async fn outbox_is_empty(&self) {
        for _ in 0..500 {
            if self.state.outbox().await.unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the outbox is not emptied");
    }
}

async fn bench(acts: &[Act]) -> (Bench, Script) {
    let script = Script::of(acts);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    receiver(listener, script.clone()).await;
    (Bench::start(&url).await, script)
}

#[tokio::test]
async fn a_notice_is_delivered_taken_out_and_logged() {
    let (mut bench, script) = bench(&[]).await;
    let delivery = bench.notice("g").await;
    assert_eq!(bench.outcome().await, OutcomeKind::Delivered);
    bench.outbox_is_empty().await;
    let taken = script.taken();
    assert_eq!((taken.len(), &taken[0].0), (1, &delivery));
    assert_eq!(taken[0].1["receiver"], "webhook");
    let log = bench.state.log(log::NOTIFICATION, 10).await.unwrap();
    assert_eq!((log.len(), &log[0].json["result"]), (1, &json!("delivered")));
}

#[tokio::test]
async fn server_errors_and_429_are_tried_again_with_the_same_key() {
    let (mut bench, script) =
        bench(&[Act::Status(500), Act::Status(503), Act::Status(429), Act::Status(408)]).await;
    let delivery = bench.notice("g").await;
    for _ in 0..4 {
        assert_eq!(bench.outcome().await, OutcomeKind::Retry);
    }
    assert_eq!(bench.outcome().await, OutcomeKind::Delivered);
    assert_eq!(script.taken()[0].0, delivery);
    bench.outbox_is_empty().await;
}

#[tokio::test]
async fn retry_after_is_honoured() {
    for status in [429, 503] {
        let (mut bench, script) = bench(&[Act::Quiet(status, "2")]).await;
        bench.notice("g").await;
        assert_eq!(bench.outcome().await, OutcomeKind::Retry);
        assert_eq!(bench.outcome().await, OutcomeKind::Delivered);
        let asked = script.asked.lock().unwrap().clone();
        let pause = asked[1] - asked[0];
        assert!(pause >= Duration::from_millis(1_950) && pause < Duration::from_secs(5), "{pause:?}");
    }
}

#[tokio::test]
async fn other_client_errors_and_redirects_are_final_and_logged() {
    for act in [Act::Status(400), Act::Status(404), Act::Status(413), Act::Redirect] {
        let (mut bench, script) = bench(&[act]).await;
        bench.notice("g").await;
        assert_eq!(bench.outcome().await, OutcomeKind::Refused);
        bench.outbox_is_empty().await;
        assert!(script.taken().is_empty());
        let log = bench.state.log(log::NOTIFICATION, 10).await.unwrap();
        assert_eq!(log[0].json["result"], "refused");
    }
}

#[tokio::test]
async fn a_receiver_that_was_down_gets_everything_in_order_seconds_after_it_is_back() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let mut bench = Bench::start(&format!("http://{address}/hook")).await;
    let mut expected = Vec::new();
    for _ in 0..3 {
        expected.push(bench.notice("g").await);
    }
    for _ in 0..4 {
        assert_eq!(bench.outcome().await, OutcomeKind::Retry);
    }
    let script = Script::default();
    let back = std::time::Instant::now();
    receiver(TcpListener::bind(address).await.unwrap(), script.clone()).await;
    let mut delivered = 0;
    while delivered < 3 {
        delivered += u32::from(bench.outcome().await == OutcomeKind::Delivered);
    }
    assert!(back.elapsed() < Duration::from_secs(6), "{:?}", back.elapsed());
    assert_eq!(script.taken().into_iter().map(|(key, ..)| key).collect::<Vec<_>>(), expected);
    bench.outbox_is_empty().await;
}

#[tokio::test]
async fn a_hanging_receiver_holds_up_its_group_only_and_is_tried_again() {
    let (mut bench, script) = bench(&[Act::Hang]).await;
    let hanging = bench.notice("a").await;
    // Until the receiver has the first request, the script's one act is not taken.
    while script.asked.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = bench.notice("a").await;
    let other = bench.notice("b").await;
    assert_eq!(bench.outcome().await, OutcomeKind::Delivered);
    assert_eq!(script.taken()[0].0, other, "another group does not wait");
    assert_eq!(bench.outcome().await, OutcomeKind::Retry);
    assert_eq!(bench.outcome().await, OutcomeKind::Delivered);
    assert_eq!(bench.outcome().await, OutcomeKind::Delivered);
    let keys: Vec<_> = script.taken().into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, [other, hanging, second]);
}

#[tokio::test]
async fn what_an_earlier_process_left_is_delivered() {
    let (bench, script) = bench(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).unwrap();
    let url = "http://127.0.0.1:9/hook";
    let gone = Notice {
        delivery: "gone".to_owned(),
        receiver: Webhook::new(url).unwrap().id().to_owned(),
        group: "g".to_owned(),
        created_at_ns: 1,
        body: json!({}),
    };
    let kept = Notice { delivery: "kept".to_owned(), receiver: bench.receiver.clone(), ..gone.clone() };
    state.commit(vec![gone.enqueue(), kept.enqueue()]).await.unwrap();
    let (_orders, inbox) = mpsc::channel(1);
    let (outcome_sender, mut outcomes) = mpsc::channel(8);
    let webhook = Webhook::new(&bench.url).unwrap();
    let mut outbox =
        Outbox::new(vec![Arc::new(webhook)], state.clone(), Clock::start(), inbox, outcome_sender);
    outbox.restore(state.outbox().await.unwrap());
    let end = CancellationToken::new();
    let task = tokio::spawn(outbox.run(end.clone()));
    assert_eq!(outcomes.recv().await.unwrap().kind, OutcomeKind::Delivered);
    assert_eq!(script.taken()[0].0, "kept");
    end.cancel();
    task.await.unwrap();
    assert!(state.outbox().await.unwrap().is_empty(), "the one for nobody is gone too");
    let results: Vec<_> = state
        .log(log::NOTIFICATION, 9)
        .await
        .unwrap()
        .into_iter()
        .map(|line| line.json["result"].clone())
        .collect();
    assert_eq!(results, [json!("delivered"), json!("no such receiver")]);
}

#[tokio::test]
async fn a_row_that_comes_late_is_taken_out_whether_delivered_before_or_after() {
    let (mut bench, script) = bench(&[]).await;
    let notice = |n: u32, receiver: &str| Notice {
        delivery: format!("late-{n}"),
        receiver: receiver.to_owned(),
        group: "g".to_owned(),
        created_at_ns: 1,
        body: json!({}),
    };
    let first = notice(1, &bench.receiver);
    bench.orders.send(Order::Deliver(first.clone(), None)).await.unwrap();
    assert_eq!(bench.outcome().await, OutcomeKind::Delivered);
    let numbers = bench.state.commit(vec![first.enqueue()]).await.unwrap();
    bench.orders.send(Order::Adopt { delivery: first.delivery, number: numbers[0] }).await.unwrap();
    bench.outbox_is_empty().await;
    assert_eq!(script.taken().len(), 1);
}

#[tokio::test]
async fn at_the_end_what_can_not_be_delivered_stays_in_the_outbox() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", reserved.local_addr().unwrap());
    drop(reserved);
    let mut bench = Bench::start(&url).await;
    bench.notice("g").await;
    assert_eq!(bench.outcome().await, OutcomeKind::Retry);
    bench.end.cancel();
    tokio::time::timeout(Duration::from_secs(10), bench.task).await.expect("it ends").unwrap();
    assert_eq!(bench.state.outbox().await.unwrap().len(), 1);
}

#[test]
fn names_and_errors_show_no_secrets_of_the_url() {
    etcdmon_service::process::install_tls_provider();
    let webhook = Webhook::new("http://user:geheim@example.org:81/services/T0/SECRET?token=x").unwrap();
    assert_eq!(webhook.name(), "webhook example.org:81");
    assert!(!webhook.id().contains("SECRET") && !webhook.id().contains(' '));
    assert_eq!(
        webhook.id(),
        Webhook::new("http://user:geheim@example.org:81/services/T0/SECRET?token=x").unwrap().id()
    );
    for bad in ["", "example.org", "ftp://example.org", "http://", "unix:/x"] {
        assert!(Webhook::new(bad).is_err(), "{bad}");
    }
}
