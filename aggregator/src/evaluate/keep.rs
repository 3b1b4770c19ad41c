//! Brings changes into the state, one transaction at a time, and never gives one up.

use std::collections::HashSet;
use std::time::Duration;

use etcdmon_service::logging::ErrorChain;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::notify::Notice;
use crate::notify::outbox::{Order, STATE_PAUSE};
use crate::state::{Change, Expected, State, StateError, TOLD};

/// Changes that wait while the state can't be written; beyond that what was replaced since goes, and if that is not half of it log
/// lines do.
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
    /// How many of `changes` were looked at for room and can't be given up.
    lasting: usize,
    under_way: Option<UnderWay>,
    failing: bool,
    /// When it is tried again, after a failure.
    again_at: Option<Instant>,
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
        if self.changes.len() >= self.lasting + MAX_WAITING {
            self.make_room();
        }
        self.changes.push(change);
    }

    fn make_room(&mut self) {
        drop_replaced(&mut self.changes);
        if self.changes.len() > self.lasting + MAX_WAITING / 2 {
            let told = |change: &&Change| matches!(change, Change::Append { log, .. } if TOLD.contains(log));
            self.untold += self.changes.iter().filter(told).count() as u64;
            self.changes.retain(|change| !matches!(change, Change::Append { .. }));
            self.lasting = self.changes.len();
        }
    }

    /// Commits what was added. `notices` are those whose [`Change::Enqueue`]s were added since the last call, in their
    /// order. Returns what the outbox must be told, at the latest after `patience`.
    pub async fn commit(&mut self, state: &State, notices: Vec<Notice>, patience: Duration) -> Vec<Order> {
        state.count_untold(std::mem::take(&mut self.untold));
        let mut orders = self.collect(Duration::ZERO).await;
        let is_paused = self.again_at.is_some_and(|again_at| Instant::now() < again_at);
        if self.under_way.is_some() || is_paused {
            orders.extend(self.in_memory(notices));
            return orders;
        }
        if self.changes.is_empty() {
            return orders;
        }
        self.lasting = 0;
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
        self.again_at = None;
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
        drop_replaced(&mut changes);
        self.changes = changes;
        self.again_at = Some(Instant::now() + STATE_PAUSE);
        under_way.notices.append(&mut self.waiting);
        self.waiting = under_way.notices;
        Vec::new()
    }

    fn in_memory(&mut self, notices: Vec<Notice>) -> Vec<Order> {
        self.waiting.extend(notices.iter().cloned());
        notices.into_iter().map(|notice| Order::Deliver(notice, None)).collect()
    }
}

/// Drops writes of entities that a later change writes or removes anyway; the order of the others stays.
fn drop_replaced(changes: &mut Vec<Change>) {
    let mut later = HashSet::new();
    let backwards = changes.iter().rev().map(|change| match change {
        Change::Put { kind, id, expected: Expected::Anything, .. } | Change::Delete { kind, id } => {
            later.insert((*kind, id.as_str()))
        }
        _ => true,
    });
    let mut kept: Vec<bool> = backwards.collect();
    changes.retain(|_| kept.pop().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::state::{kind, log};

    fn put(id: &str, n: usize) -> Change {
        let json = json!(n);
        Change::Put { kind: kind::DIAGNOSIS, id: id.to_owned(), expected: Expected::Anything, json }
    }

    fn notice(delivery: &str) -> Notice {
        let delivery = delivery.to_owned();
        Notice {
            delivery,
            receiver: "r".to_owned(),
            group: "g".to_owned(),
            created_at_ns: 5,
            body: json!({}),
        }
    }

    fn enqueue(delivery: &str) -> Change {
        let Notice { delivery, receiver, group, created_at_ns, body } = notice(delivery);
        Change::Enqueue { delivery, receiver, group, created_at_ns, json: body }
    }

    fn line() -> Change {
        Change::Append { log: log::ALERT, at_ns: 1, json: Value::Null }
    }

    /// In words.
    fn shown(changes: &[Change]) -> Vec<String> {
        let one = |change: &Change| match change {
            Change::Put { id, json, .. } => format!("put {id} {json}"),
            Change::Delete { id, .. } => format!("delete {id}"),
            Change::Enqueue { delivery, .. } => format!("enqueue {delivery}"),
            other => format!("{other:?}"),
        };
        changes.iter().map(one).collect()
    }

    #[test]
    fn only_the_last_of_an_entity_is_kept_and_notices_stay_in_order() {
        let (id, expected) = ("c".to_owned(), Expected::Absent);
        let first = Change::Put { kind: kind::DIAGNOSIS, id, expected, json: json!(0) };
        let delete = Change::Delete { kind: kind::DIAGNOSIS, id: "b".to_owned() };
        let mut changes = vec![first, put("a", 1), enqueue("x"), put("b", 1), put("c", 1), put("a", 2)];
        changes.extend([enqueue("y"), delete, put("a", 3)]);
        drop_replaced(&mut changes);
        assert_eq!(shown(&changes), ["put c 0", "enqueue x", "put c 1", "enqueue y", "delete b", "put a 3"]);
    }

    #[test]
    fn what_waits_is_bounded_and_log_lines_go_before_entities_and_notices() {
        let mut keeper = Keeper::default();
        for n in 0..3 * MAX_WAITING {
            keeper.keep(put(["a", "b", "c"][n % 3], n));
            assert!(keeper.changes.len() <= MAX_WAITING);
        }
        assert_eq!(keeper.untold, 0);
        keeper.keep(enqueue("x"));
        for n in 0..3 * MAX_WAITING {
            keeper.keep(if n % 2 == 0 { line() } else { put("a", n) });
            assert!(keeper.changes.len() <= MAX_WAITING + keeper.lasting);
        }
        assert!(keeper.untold > 0);
        assert!(shown(&keeper.changes).contains(&"enqueue x".to_owned()));
    }

    #[test]
    fn much_that_can_not_be_given_up_is_not_gone_through_with_every_change() {
        let mut keeper = Keeper::default();
        for n in 0..2 * MAX_WAITING {
            keeper.keep(put(&n.to_string(), n));
        }
        assert_eq!((keeper.changes.len(), keeper.lasting), (2 * MAX_WAITING, MAX_WAITING));
    }

    #[tokio::test]
    async fn a_state_that_fails_is_left_alone_for_a_moment_but_not_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let (mut keeper, patience) = (Keeper::default(), Duration::from_secs(20));
        let (id, expected, json) = ("a".to_owned(), Expected::Absent, json!(1));
        state.commit(vec![put("a", 0)]).await.unwrap();
        keeper.keep(Change::Put { kind: kind::DIAGNOSIS, id, expected, json });
        assert!(keeper.commit(&state, Vec::new(), patience).await.is_empty());
        // From now on nothing is wrong with it.
        keeper.changes = vec![put("a", 2), enqueue("x")];
        let orders = keeper.commit(&state, vec![notice("x")], patience).await;
        assert!(matches!(&orders[..], [Order::Deliver(_, None)]), "{orders:?}");
        assert!(keeper.under_way.is_none() && state.outbox().await.unwrap().is_empty());
        keeper.finish(&state, patience).await;
        assert_eq!(state.outbox().await.unwrap().len(), 1);
        assert_eq!(state.list(kind::DIAGNOSIS).await.unwrap()[0].json, json!(2));
    }
}
