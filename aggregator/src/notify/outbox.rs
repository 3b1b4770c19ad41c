//! The second half of the pipeline: delivers what is in the outbox, tries again, and logs.
//!
//! Notices for one receiver and group are delivered in their order, one at a time; groups and receivers do not wait for
//! each other beyond [`IN_FLIGHT`] per receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Notice;
use super::channel::{Channels, DeliveryError};
use super::retry::Pauses;
use crate::clock::Clock;
use crate::state::{Change, OutboxItem, State, StateError, log};

/// Deliveries to one receiver at the same time.
pub const IN_FLIGHT: usize = 8;

/// How long deliveries may go on after the order to end; what is left stays in the outbox.
const GRACE: Duration = Duration::from_secs(3);

/// How long to wait before the state is tried again.
pub const STATE_PAUSE: Duration = Duration::from_secs(1);

/// A receiver that keeps failing is logged at every so many attempts.
const LOG_EVERY: u32 = 20;

/// What the outbox is told.
#[derive(Debug)]
pub enum Order {
    /// Deliver this. The number is that of its row in the state, or `None` when it could not be written in time.
    Deliver(Notice, Option<i64>),
    /// The row that was late has this number after all.
    Adopt {
        /// Which delivery.
        delivery: String,
        /// Number of its row.
        number: i64,
    },
}

/// What the outbox did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the receiver.
    pub receiver: String,
    /// Fingerprints of the alerts that the notice said fire.
    pub firing: Vec<String>,
    /// Delivered, given up, or to be tried again.
    pub kind: OutcomeKind,
    /// From planning the notice to this outcome.
    pub took: Duration,
}

/// See [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeKind {
    /// The receiver has it.
    Delivered,
    /// The receiver refused it for good.
    Refused,
    /// It will be tried again.
    Retry,
}

struct Item {
    notice: Notice,
    number: Option<i64>,
    due: Instant,
    first_attempt: Option<Instant>,
    attempts: u32,
    pauses: Pauses,
    in_flight: bool,
}

/// The deliverer. Run it as a task.
pub struct Outbox {
    channels: Channels,
    state: State,
    clock: Clock,
    orders: mpsc::Receiver<Order>,
    outcomes: mpsc::Sender<Outcome>,
    items: BTreeMap<u64, Item>,
    next_key: u64,
    /// Deliveries that ended before their row was known.
    ended_early: BTreeSet<String>,
    /// Changes that the state still has to take.
    unsaved: Vec<Change>,
    /// A commit under way, with its changes. Deliveries do not wait for it: the disk may hang.
    saving: Option<Saving>,
    save_again_at: Instant,
}

type Saving = (Vec<Change>, tokio::task::JoinHandle<Result<Vec<i64>, StateError>>);

impl Outbox {
    /// A deliverer that takes `orders` and tells `outcomes`.
    pub fn new(
        channels: Channels,
        state: State,
        clock: Clock,
        orders: mpsc::Receiver<Order>,
        outcomes: mpsc::Sender<Outcome>,
    ) -> Self {
        Self {
            channels,
            state,
            clock,
            orders,
            outcomes,
            items: BTreeMap::new(),
            next_key: 0,
            ended_early: BTreeSet::new(),
            unsaved: Vec::new(),
            saving: None,
            save_again_at: Instant::now(),
        }
    }

    /// Takes what an earlier process left in the outbox.
    pub fn restore(&mut self, items: Vec<OutboxItem>) {
        for item in items {
            let notice = Notice {
                delivery: item.delivery,
                receiver: item.receiver,
                group: item.group,
                created_at_ns: item.created_at_ns,
                body: item.json,
            };
            self.add(notice, Some(item.number));
        }
    }

    /// Delivers until `end` is cancelled, then for a moment longer.
    pub async fn run(mut self, end: CancellationToken) {
        let mut deliveries = JoinSet::new();
        let mut deadline = None;
        loop {
            self.start_due(&mut deliveries);
            self.start_saving();
            let idle = deliveries.is_empty() && self.orders.is_empty() && self.saving.is_none();
            if deadline.is_some() && idle {
                break;
            }
            let wake = self.next_due().into_iter().chain(deadline).min();
            tokio::select! {
                Some(order) = self.orders.recv() => self.take(order),
                Some(result) = deliveries.join_next(), if !deliveries.is_empty() => match result {
                    Ok((key, result)) => self.finish(key, result),
                    Err(error) => self.revive(&error),
                },
                result = saved(&mut self.saving) => self.finish_saving(result),
                () = sleep_until(wake) => {}
                () = end.cancelled(), if deadline.is_none() => deadline = Some(Instant::now() + GRACE),
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
        }
        if !self.items.is_empty() {
            tracing::info!(notices = self.items.len(), "undelivered notices stay in the outbox");
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Deliver(notice, number) => self.add(notice, number),
            Order::Adopt { delivery, number } => {
                if self.ended_early.remove(&delivery) {
                    self.unsaved.push(Change::Dequeue { number });
                } else if let Some(item) =
                    self.items.values_mut().find(|item| item.notice.delivery == delivery)
                {
                    item.number = Some(number);
                }
            }
        }
    }

    fn add(&mut self, notice: Notice, number: Option<i64>) {
        if !self.channels.iter().any(|channel| channel.id() == notice.receiver) {
            tracing::warn!(
                receiver = notice.receiver,
                group = notice.group,
                "notice for a receiver that is no longer configured, dropped"
            );
            self.end(&notice, number, "no such receiver");
            return;
        }
        let item = Item {
            notice,
            number,
            due: Instant::now(),
            first_attempt: None,
            attempts: 0,
            pauses: Pauses::default(),
            in_flight: false,
        };
        self.items.insert(self.next_key, item);
        self.next_key += 1;
    }

    /// Starts every delivery that is due, has no elder in its group and finds room at its receiver.
    fn start_due(&mut self, deliveries: &mut JoinSet<(u64, Result<(), DeliveryError>)>) {
        let now = Instant::now();
        let mut busy: BTreeMap<String, usize> = BTreeMap::new();
        for item in self.items.values().filter(|item| item.in_flight) {
            *busy.entry(item.notice.receiver.clone()).or_default() += 1;
        }
        let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
        for (key, item) in &mut self.items {
            let eldest = seen.insert((item.notice.receiver.clone(), item.notice.group.clone()));
            let room = busy.entry(item.notice.receiver.clone()).or_default();
            if !eldest || item.in_flight || item.due > now || *room >= IN_FLIGHT {
                continue;
            }
            let Some(channel) = self.channels.iter().find(|channel| channel.id() == item.notice.receiver)
            else {
                continue;
            };
            *room += 1;
            item.in_flight = true;
            item.first_attempt.get_or_insert(now);
            let (channel, notice, key) = (channel.clone(), item.notice.clone(), *key);
            deliveries.spawn(async move { (key, channel.deliver(&notice).await) });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let items = self.items.values().filter(|item| !item.in_flight).map(|item| item.due);
        // An item that is due but waits for its elder is woken by the elder's end.
        let now = Instant::now();
        let save = (!self.unsaved.is_empty()).then_some(self.save_again_at);
        items.filter(|due| *due > now).chain(save).min()
    }

    fn finish(&mut self, key: u64, result: Result<(), DeliveryError>) {
        let Some(item) = self.items.get_mut(&key) else { return };
        item.in_flight = false;
        item.attempts += 1;
        let receiver = self.channels.iter().find(|channel| channel.id() == item.notice.receiver);
        let receiver =
            receiver.map_or_else(|| item.notice.receiver.clone(), |channel| channel.name().to_owned());
        let kind = match result {
            Ok(()) => OutcomeKind::Delivered,
            Err(DeliveryError::Retry { what, after }) => {
                let failing_for = item.first_attempt.map_or(Duration::ZERO, |first| first.elapsed());
                item.due = Instant::now() + item.pauses.next(failing_for, after);
                if item.attempts % LOG_EVERY == 1 {
                    tracing::warn!(
                        receiver,
                        error = what,
                        attempt = item.attempts,
                        "notice not delivered, trying again"
                    );
                }
                OutcomeKind::Retry
            }
            Err(DeliveryError::Refused { what }) => {
                tracing::error!(receiver, error = what, group = item.notice.group, "notice refused for good");
                OutcomeKind::Refused
            }
        };
        let notice = &item.notice;
        let took = Duration::from_nanos(
            u64::try_from(
                self.clock.wall(self.clock.now()).timestamp_nanos_opt().unwrap_or(0) - notice.created_at_ns,
            )
            .unwrap_or(0),
        );
        let firing = firing(notice);
        // Outcomes only feed metrics and `notified_at`: when nobody keeps up with them, they may be lost.
        let _lost = self.outcomes.try_send(Outcome { receiver, firing, kind, took });
        let result = match kind {
            OutcomeKind::Delivered => "delivered",
            OutcomeKind::Refused => "refused",
            OutcomeKind::Retry => return,
        };
        if let Some(item) = self.items.remove(&key) {
            self.end(&item.notice, item.number, result);
        }
    }

    /// Takes a notice out of the outbox and writes the log, in one transaction.
    fn end(&mut self, notice: &Notice, number: Option<i64>, result: &str) {
        match number {
            Some(number) => self.unsaved.push(Change::Dequeue { number }),
            None => drop(self.ended_early.insert(notice.delivery.clone())),
        }
        let at_ns = self.clock.now().shifted(self.clock.offset_ns()).nanos();
        let json = json!({
            "delivery": notice.delivery, "receiver": notice.receiver, "group": notice.group, "result": result,
            "status": notice.body["status"], "alerts": notice.body["alerts"].as_array().map_or(0, Vec::len),
            "created_at_ns": notice.created_at_ns,
        });
        self.unsaved.push(Change::Append { log: log::NOTIFICATION, at_ns, json });
    }

    fn start_saving(&mut self) {
        if self.unsaved.is_empty() || self.saving.is_some() || Instant::now() < self.save_again_at {
            return;
        }
        let changes = std::mem::take(&mut self.unsaved);
        let (state, copy) = (self.state.clone(), changes.clone());
        self.saving = Some((changes, tokio::spawn(async move { state.commit(copy).await })));
    }

    fn finish_saving(&mut self, result: Result<(), String>) {
        let Some((mut changes, _)) = self.saving.take() else { return };
        if let Err(error) = result {
            tracing::error!(error, "deliveries not noted in the state, trying again");
            changes.append(&mut self.unsaved);
            self.unsaved = changes;
            self.save_again_at = Instant::now() + STATE_PAUSE;
        }
    }

    /// A channel panicked; which item it was is not told, so all that were in flight are tried again.
    fn revive(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(%error, "a delivery ended abnormally");
        for item in self.items.values_mut().filter(|item| item.in_flight) {
            item.in_flight = false;
            item.due = Instant::now() + STATE_PAUSE;
        }
    }
}

fn firing(notice: &Notice) -> Vec<String> {
    let alerts = notice.body["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
    alerts
        .iter()
        .filter(|alert| alert["status"] == "firing")
        .filter_map(|alert| alert["fingerprint"].as_str().map(str::to_owned))
        .collect()
}

async fn saved(saving: &mut Option<Saving>) -> Result<(), String> {
    match saving {
        Some((_, task)) => match task.await {
            Ok(Ok(_numbers)) => Ok(()),
            Ok(Err(error)) => Err(etcdmon_service::logging::ErrorChain(&error).to_string()),
            Err(error) => Err(error.to_string()),
        },
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
