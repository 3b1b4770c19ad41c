//! Brings changes into the state, one transaction at a time, and never gives one up.

use std::time::Duration;

use etcdmon_service::logging::ErrorChain;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::notify::Notice;
use crate::notify::outbox::Order;
use crate::state::{Change, State, StateError, TOLD};

/// Changes that wait while the state can't be written; beyond that, log lines are dropped.
const MAX_WAITING: usize = 50_000;

/// A commit under way.
type Commit = JoinHandle<Result<Vec<i64>, StateError>>;

/// Notices whose rows are not known yet, in the order of their rows.
type Waiting = Vec<Notice>;

/// See the module.
#[derive(Debug, Default)]
pub struct Keeper {
    changes: Vec<Change>,
    /// Notices among `changes` that were handed to the outbox already.
    waiting: Waiting,
    under_way: Option<UnderWay>,
    failing: bool,
    /// Lines given up that should have gone to ClickHouse, not counted yet.
    untold: u64,
}

#[derive(Debug)]
struct UnderWay {
    commit: Commit,
    changes: Vec<Change>,
    notices: Waiting,
}

impl Keeper {
    /// Adds a change to the next transaction.
    pub fn keep(&mut self, change: Change) {
        if self.changes.len() >= MAX_WAITING {
            let told = |change: &&Change| matches!(change, Change::Append { log, .. } if TOLD.contains(log));
            self.untold += self.changes.iter().filter(told).count() as u64;
            self.changes.retain(|change| !matches!(change, Change::Append { .. }));
        }
        self.changes.push(change);
    }

    /// Commits what was added. `notices` are those whose [`Change::Enqueue`]s were added since the last call, in their
    /// order. Returns what the outbox must be told, at the latest after `patience`.
    pub async fn commit(&mut self, state: &State, notices: Vec<Notice>, patience: Duration) -> Vec<Order> {
        state.count_untold(std::mem::take(&mut self.untold));
        let mut orders = self.collect(Duration::ZERO).await;
        if self.under_way.is_some() {
            orders.extend(self.in_memory(notices));
            return orders;
        }
        if self.changes.is_empty() {
            return orders;
        }
        // Those that wait were planned earlier, so their rows come first.
        let early = self.waiting.len();
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(notices.iter().cloned());
        let changes = std::mem::take(&mut self.changes);
        let (handle, copy) = (state.clone(), changes.clone());
        let commit = tokio::spawn(async move { handle.commit(copy).await });
        self.under_way = Some(UnderWay { commit, changes, notices: all });
        let adopted = self.collect(patience).await;
        if adopted.is_empty() && !notices.is_empty() {
            orders.extend(notices.into_iter().map(|notice| Order::Deliver(notice, None)));
            return orders;
        }
        orders.extend(adopted.into_iter().enumerate().map(|(position, order)| match order {
            Order::Adopt { number, .. } if position >= early => {
                Order::Deliver(notices[position - early].clone(), Some(number))
            }
            other => other,
        }));
        orders
    }

    /// At the end: waits once more for what is under way and commits the rest.
    pub async fn finish(&mut self, state: &State, patience: Duration) {
        drop(self.collect(patience).await);
        drop(self.commit(state, Vec::new(), patience).await);
        if !self.changes.is_empty() || self.under_way.is_some() {
            tracing::error!(changes = self.changes.len(), "state not written completely before the end");
        }
    }

    /// The orders that a commit under way amounts to once it has ended: a number for each of its notices.
    async fn collect(&mut self, patience: Duration) -> Vec<Order> {
        let Some(mut under_way) = self.under_way.take() else { return Vec::new() };
        let failure = match timeout(patience, &mut under_way.commit).await {
            Err(_elapsed) => {
                if !patience.is_zero() {
                    tracing::error!("the state does not answer, notices are delivered from memory");
                }
                self.under_way = Some(under_way);
                return Vec::new();
            }
            Ok(Ok(Ok(numbers))) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the state can be written again");
                }
                let adopt =
                    |(notice, number): (Notice, i64)| Order::Adopt { delivery: notice.delivery, number };
                return under_way.notices.into_iter().zip(numbers).map(adopt).collect();
            }
            Ok(Ok(Err(error))) => ErrorChain(&error).to_string(),
            Ok(Err(error)) => error.to_string(),
        };
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                error = failure,
                "state not written, notices are delivered from memory until it can be"
            );
        }
        let mut changes = under_way.changes;
        changes.append(&mut self.changes);
        self.changes = changes;
        under_way.notices.append(&mut self.waiting);
        self.waiting = under_way.notices;
        Vec::new()
    }

    fn in_memory(&mut self, notices: Vec<Notice>) -> Vec<Order> {
        self.waiting.extend(notices.iter().cloned());
        notices.into_iter().map(|notice| Order::Deliver(notice, None)).collect()
    }
}
