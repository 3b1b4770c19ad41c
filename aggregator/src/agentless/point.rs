//! One endpoint being asked: two tasks, one for Status and member list, one for `/metrics` and `/livez`. Each has one
//! question under way at most, on one kept connection, so an endpoint never has more than two of ours at a time.
//!
//! Status is the one question that is tried while an endpoint does not answer (the circuit is open); the others wait until
//! it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcdmon_etcd::exposition::Table;
use etcdmon_etcd::scrape::{ScrapeError, Scraper};
use etcdmon_etcd::status::{Status, StatusClient, StatusError};
use etcdmon_etcd::{Endpoint, Gauges, Series};
use etcdmon_proto::v1;
use etcdmon_service::logging::ErrorChain;
use prost::Message as _;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::pace::{Pace, TRY_AGAIN};
use super::spec::Target;

/// Time for one question, connecting included.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// Questions to all endpoints under way at the same time.
const QUESTIONS: usize = 128;

/// Pages of all endpoints being read at the same time: each may take some 16 MiB until it is found to be too long.
const PAGES: usize = 16;

/// What etcd says when authentication is on and we are nobody.
const NO_USER: &str = "user name is empty";

/// Authenticating by password costs a raft proposal each time, so that is not done.
const NO_USER_HINT: &str = " (etcd's authentication is on: give a client certificate whose common name is an etcd user; it needs no role)";

/// The member list is asked for so often.
const MEMBERS_EVERY: Duration = Duration::from_secs(5);

/// Most peers of a member that are looked at; removed ones linger in a page until etcd restarts.
const MAX_PEERS: usize = 256;

/// A value that did not change is repeated about so often, as agents do.
const REPEAT_EVERY: Duration = Duration::from_secs(30);

/// How an endpoint is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything, each on its period.
    Full,
    /// Only now and then for Status and member list: an agent watches the member. Pages only when wanted.
    Listen,
}

/// Bounds over all endpoints.
#[derive(Debug)]
pub struct Limits {
    questions: Semaphore,
    pages: Semaphore,
}

impl Default for Limits {
    fn default() -> Self {
        Self { questions: Semaphore::new(QUESTIONS), pages: Semaphore::new(PAGES) }
    }
}

/// What asking an endpoint cost it.
#[derive(Debug, Default)]
pub struct Cost {
    /// Requests.
    pub requests: AtomicU64,
    /// Bytes of answers, without framing and TLS.
    pub bytes: AtomicU64,
}

impl Cost {
    fn add(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In words, with the cause.
    pub text: String,
    /// The host says that nobody listens there.
    pub refused: bool,
    /// The connection was accepted, and nothing came.
    pub hangs: bool,
}

impl Failure {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let hangs = matches!(error.downcast_ref(), Some(StatusError::Timeout { reached: true, .. }));
        let mut refused = false;
        let mut cause = Some(error);
        while let Some(error) = cause {
            let io = error.downcast_ref::<std::io::Error>();
            refused |= io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
            cause = error.source();
        }
        let text = ErrorChain(error).to_string();
        let hint = if text.contains(NO_USER) { NO_USER_HINT } else { "" };
        Self { text: text + hint, refused, hangs }
    }
}

/// A page of `/metrics`.
#[derive(Debug, Default)]
pub struct Page {
    /// When it began to arrive.
    pub mono: Option<Instant>,
    /// Member that it is of, if it says so.
    pub member: Option<u64>,
    /// The values that tell how it is.
    pub gauges: Gauges,
    /// Whether the member holds connections with each of its peers.
    pub peers: BTreeMap<u64, bool>,
    /// Samples that changed or are due to be repeated.
    pub changed: Vec<(Arc<Series>, f64)>,
    /// Samples beyond the limits, and lines that are none.
    pub lost: [(&'static str, usize); 2],
}

/// An answer, or that there was none.
#[derive(Debug)]
pub enum Answer {
    /// Of Status.
    Status(Result<Box<Status>, Failure>),
    /// Of the member list.
    Members(Vec<v1::PeerMember>),
    /// Of `/metrics`.
    Page(Result<Box<Page>, Failure>),
    /// Of `/livez`; the error is what it said instead.
    Alive(Result<(), String>),
}

/// An answer with whose it is.
#[derive(Debug)]
pub struct Finding {
    /// Which point.
    pub point: u64,
    /// What it said.
    pub answer: Answer,
}

/// An endpoint being asked. Dropping it ends its tasks.
#[derive(Debug)]
pub struct Point {
    mode: watch::Sender<Mode>,
    want_page: Arc<Notify>,
    /// What it has cost so far.
    pub cost: Arc<Cost>,
    end: CancellationToken,
}

impl Drop for Point {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Point {
    /// Begins to ask. `number` names the point in findings.
    pub fn start(
        number: u64,
        target: &Target,
        endpoint: &Endpoint,
        findings: mpsc::Sender<Finding>,
        limits: Arc<Limits>,
    ) -> Self {
        let (mode, modes) = watch::channel(Mode::Full);
        let point =
            Self { mode, want_page: Arc::default(), cost: Arc::default(), end: CancellationToken::new() };
        let shared = Asker {
            number,
            findings,
            limits,
            modes,
            cost: point.cost.clone(),
            answers: Arc::new(AtomicBool::new(false)),
            want_page: point.want_page.clone(),
        };
        let client = StatusClient::new(endpoint.clone(), target.access.clone()).within(TIMEOUT);
        let scraper = Scraper::new(target.metrics_of(endpoint), target.access.clone()).within(TIMEOUT);
        let status = shared.clone().ask_status(client, target.status_interval());
        let pages = shared.ask_pages(scraper, target.interval);
        let end = point.end.clone();
        tokio::spawn(async move { end.run_until_cancelled(status).await });
        let end = point.end.clone();
        tokio::spawn(async move { end.run_until_cancelled(pages).await });
        point
    }

    /// Asks more or less from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.send_if_modified(|now| std::mem::replace(now, mode) != mode);
    }

    /// Asks for a page soon, for what it says of the peers.
    pub fn want_page(&self) {
        self.want_page.notify_one();
    }
}

#[derive(Clone)]
struct Asker {
    number: u64,
    findings: mpsc::Sender<Finding>,
    limits: Arc<Limits>,
    modes: watch::Receiver<Mode>,
    cost: Arc<Cost>,
    /// Whether Status answered the last time.
    answers: Arc<AtomicBool>,
    want_page: Arc<Notify>,
}

impl Asker {
    async fn ask_status(mut self, mut client: StatusClient, period: Duration) {
        let mut pace = Pace::new(period);
        let mut listed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let outcome = {
                // Never closed; the same below.
                let _permit = self.limits.questions.acquire().await;
                client.status().await
            };
            let answered = outcome.is_ok();
            self.cost.add(outcome.as_ref().map_or(0, |status| status.encoded_len()));
            if answered && !self.answers.swap(true, Ordering::Relaxed) {
                self.want_page.notify_one();
            }
            self.answers.store(answered, Ordering::Relaxed);
            let took = began.elapsed();
            self.tell(Answer::Status(outcome.map(Box::new).map_err(|error| Failure::of(&error)))).await;
            if answered && listed.is_none_or(|at| at.elapsed() >= MEMBERS_EVERY - period / 2) {
                listed = Some(Instant::now());
                self.ask_members(&mut client).await;
            }
            let pause = pace.after(took, answered, rand::random());
            let pause = if *self.modes.borrow() == Mode::Listen { pause.max(TRY_AGAIN) } else { pause };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Asked for more: at once.
                changed = self.modes.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn ask_members(&self, client: &mut StatusClient) {
        let _permit = self.limits.questions.acquire().await;
        match client.members().await {
            Ok(members) => {
                self.cost.add(members.iter().map(prost::Message::encoded_len).sum());
                self.tell(Answer::Members(members)).await;
            }
            Err(error) => {
                self.cost.add(0);
                tracing::debug!(error = %ErrorChain(&error), "member list not had");
            }
        }
    }

    async fn ask_pages(mut self, mut scraper: Scraper, period: Duration) {
        let mut pace = Pace::new(period);
        let every = REPEAT_EVERY.as_secs() / period.as_secs().max(1);
        let mut table = Table::repeating(every);
        let (mut pause, mut has_livez) = (period, true);
        loop {
            let full = *self.modes.borrow_and_update() == Mode::Full;
            tokio::select! {
                () = tokio::time::sleep(pause), if full => {}
                () = self.want_page.notified() => {}
                changed = self.modes.changed() => match changed {
                    Ok(()) => continue,
                    Err(_ended) => return,
                },
            }
            if !self.answers.load(Ordering::Relaxed) {
                continue;
            }
            let began = Instant::now();
            let page = self.page(&mut scraper, &mut table).await;
            let (took, answered) = (began.elapsed(), page.is_ok());
            self.tell(Answer::Page(page)).await;
            if answered && has_livez && full {
                has_livez = self.livez(&mut scraper).await;
            }
            pause = pace.after(took, answered, rand::random());
        }
    }

    async fn page(&self, scraper: &mut Scraper, table: &mut Table) -> Result<Box<Page>, Failure> {
        let _page = self.limits.pages.acquire().await;
        let _permit = self.limits.questions.acquire().await;
        let outcome = scraper.page(Instant::now).await;
        self.cost.add(outcome.as_ref().map_or(0, |(page, _)| page.len()));
        let (text, mono) = outcome.map_err(|error| Failure::of(&error))?;
        Ok(Box::new(read_page(&text, mono, table)))
    }

    /// Whether it makes sense to ask again: older versions have no `/livez`.
    async fn livez(&self, scraper: &mut Scraper) -> bool {
        let _permit = self.limits.questions.acquire().await;
        let outcome = scraper.probe("/livez").await;
        self.cost.add(0);
        let alive = match outcome {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) if status.as_u16() == 404 => return false,
            Ok(status) => Err(format!("/livez answered {status}")),
            // What can't be reached is said of the page and of Status already.
            Err(ScrapeError::Timeout(_)) => Err("/livez did not answer in time".to_owned()),
            Err(_unreachable) => return true,
        };
        self.tell(Answer::Alive(alive)).await;
        true
    }

    /// Waits when the owner is behind: then the endpoint is asked more seldom.
    async fn tell(&self, answer: Answer) {
        // The owner ends its points before it ends.
        let _ended = self.findings.send(Finding { point: self.number, answer }).await;
    }
}

fn read_page(text: &str, mono: Instant, table: &mut Table) -> Page {
    let mut page = Page { mono: Some(mono), ..Page::default() };
    let scraped = table.read(text, |name, labels, value| {
        page.gauges.watch(name, value);
        match name {
            "etcd_server_id" => page.member = hex_label(labels, "server_id").or(page.member),
            "etcd_network_active_peers" => {
                if let Some(peer) = hex_label(labels, "Remote").filter(|_| page.peers.len() < MAX_PEERS) {
                    page.peers.insert(peer, value > 0.0);
                }
            }
            _ => {}
        }
    });
    page.changed = scraped.changed;
    page.lost = [("series_limit", scraped.refused), ("malformed", scraped.malformed)];
    page
}

/// A member id among labels as they are written in a page.
fn hex_label(labels: &str, name: &str) -> Option<u64> {
    let (_, after) = labels.split_once(name)?;
    let (id, _) = after.strip_prefix("=\"")?.split_once('"')?;
    u64::from_str_radix(id, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_whose_it_is_and_which_peers_are_connected() {
        let text = "etcd_server_id{server_id=\"a1\"} 1\netcd_server_has_leader 1\n\
            etcd_network_active_peers{Local=\"a1\",Remote=\"b2\"} 1\netcd_network_active_peers{Local=\"a1\",Remote=\"c3\"} 0\n\
            etcd_network_active_peers{Remote=\"zz\"} 0\netcd_x\n";
        let page = read_page(text, Instant::now(), &mut Table::default());
        assert_eq!(page.member, Some(0xa1));
        assert!(page.gauges.has_leader);
        assert_eq!(page.peers, BTreeMap::from([(0xb2, true), (0xc3, false)]));
        assert_eq!(page.lost, [("series_limit", 0), ("malformed", 1)]);
    }

    #[test]
    fn a_refused_connection_is_told_from_other_failures() {
        let endpoint = |kind| etcdmon_etcd::EndpointError::Connect {
            address: "http://a:1".to_owned(),
            source: std::io::Error::from(kind),
        };
        let refused = Failure::of(&endpoint(std::io::ErrorKind::ConnectionRefused));
        assert!(refused.refused && refused.text.contains("connect to http://a:1"), "{refused:?}");
        assert!(!Failure::of(&endpoint(std::io::ErrorKind::TimedOut)).refused);
        let nobody = std::io::Error::other("Maintenance.Status: etcdserver: user name is empty");
        assert!(Failure::of(&nobody).text.contains("it needs no role"));
    }
}
