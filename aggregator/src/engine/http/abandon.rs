//! Inserts that their client gave up.
//!
//! A client whose insert timed out looks at `system.processes` and kills it there. An insert that waits here for a
//! connection, perhaps with its whole body already in our socket, would be seen by nobody and begin later. So the
//! client names it in [`ABANDON_HEADER`] with any statement: once that one was answered, the insert either is in
//! `system.processes` or never begins, and one that waits for the rest of its body is cancelled.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_util::sync::CancellationToken;

/// Header that names the query id of an insert that is given up.
pub const ABANDON_HEADER: &str = "x-etcdmon-abandon";

/// Given-up inserts that are remembered.
const MAX_ABANDONED: usize = 4_096;

/// Inserts that were announced, and query ids that must not begin any more.
#[derive(Default)]
pub struct Inserts(RwLock<State>);

#[derive(Default)]
struct State {
    abandoned: VecDeque<String>,
    announced: HashMap<String, CancellationToken>,
}

/// An insert whose request has arrived; forgotten when dropped.
pub struct Announced {
    inserts: Arc<Inserts>,
    query_id: Option<String>,
    token: CancellationToken,
}

impl Announced {
    /// Cancelled when the insert is given up.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

impl Inserts {
    /// Takes note of an insert before it waits for anything.
    pub fn announce(self: &Arc<Self>, query_id: Option<&str>) -> Announced {
        let token = CancellationToken::new();
        if let Some(id) = query_id {
            let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if state.abandoned.iter().any(|abandoned| abandoned == id) {
                token.cancel();
            }
            state.announced.insert(id.to_owned(), token.clone());
        }
        Announced { inserts: self.clone(), query_id: query_id.map(str::to_owned), token }
    }

    /// Begins an insert unless it was given up. Giving up waits meanwhile: it must find the insert begun, or not.
    pub fn begin<T>(&self, announced: &Announced, begin: impl FnOnce() -> T) -> Option<T> {
        let _state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (!announced.token.is_cancelled()).then(begin)
    }

    /// Gives an insert up. May wait for inserts that are about to begin.
    pub fn abandon(&self, query_id: &str) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = state.announced.get(query_id) {
            token.cancel();
        }
        state.abandoned.truncate(MAX_ABANDONED - 1);
        state.abandoned.push_front(query_id.to_owned());
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if let Some(id) = &self.query_id {
            self.inserts.0.write().unwrap_or_else(PoisonError::into_inner).announced.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_given_up_before_it_arrives_never_begins() {
        let inserts = Arc::new(Inserts::default());
        inserts.abandon("a");
        assert_eq!(inserts.begin(&inserts.announce(Some("a")), || 1), None);
        assert_eq!(inserts.begin(&inserts.announce(Some("b")), || 1), Some(1));
        assert_eq!(inserts.begin(&inserts.announce(None), || 1), Some(1));
    }

    #[test]
    fn an_insert_given_up_while_it_waits_is_told_and_never_begins() {
        let inserts = Arc::new(Inserts::default());
        let announced = inserts.announce(Some("a"));
        inserts.abandon("a");
        assert!(announced.token().is_cancelled());
        assert_eq!(inserts.begin(&announced, || 1), None);
        drop(announced);
        assert!(inserts.0.read().unwrap().announced.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let inserts = Arc::new(Inserts::default());
        for number in 0..MAX_ABANDONED + 10 {
            inserts.abandon(&number.to_string());
        }
        assert_eq!(inserts.0.read().unwrap().abandoned.len(), MAX_ABANDONED);
    }
}
