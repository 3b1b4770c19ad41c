//! Finds the rows that ClickHouse will never take, so that all others are stored and nobody waits for ever.
//!
//! A unit that was refused often enough is halved, by batches first and by rows then, until what is left of the refused
//! parts is single rows or too many inserts were spent. Each half goes the ordinary way: settled, asked for, inserted.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::aside;
use super::client::Client;
use super::counters::Counters;
use super::flush::AttemptError;
use super::refusal::{About, Refusal};
use super::table::Table;
use super::unit::Unit;

/// Refusals about values that condemn a unit.
const PATIENCE: u32 = 3;

/// Inserts that the search in one unit may cost; one bad row among 400,000 takes about forty.
const SEARCH: usize = 128;

/// How the store treats rows that are refused for good.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where such rows are kept; `None` = nowhere.
    pub directory: Option<PathBuf>,
    /// How long a table that is not as this program knows it is waited for: somebody may be upgrading it.
    pub schema_patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { directory: None, schema_patience: Duration::from_secs(300) }
    }
}

/// A unit's refusals so far.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    since: Instant,
    times: u32,
}

/// Judges refusals and finds the rows that cause them.
pub struct Isolator {
    options: Options,
    /// Tables that are not as they must be, found so by much patience; until an insert into them works.
    judged: Mutex<HashSet<Table>>,
}

impl Isolator {
    /// With these options.
    pub fn new(options: Options) -> Self {
        Self { options, judged: Mutex::default() }
    }

    /// Takes note that a table takes rows.
    pub fn works(&self, table: Table) {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner).remove(&table);
    }

    /// Takes note of a unit's failure. The refusal, when it is time to give up on some of its rows.
    pub fn judge(&self, unit: &mut Unit, error: &AttemptError) -> Option<Refusal> {
        // An outage in between proves nothing, and takes nothing back.
        let refusal = Refusal::of(error)?;
        let (now, table) = (Instant::now(), unit.table());
        let refused = unit.refused.get_or_insert(Refused { since: now, times: 0 });
        refused.times += 1;
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let condemned = match refusal.about {
            About::Values => refused.times >= PATIENCE,
            About::Schema => judged.contains(&table) || now - refused.since >= self.options.schema_patience,
        };
        if condemned && refusal.about == About::Schema {
            judged.insert(table);
        }
        condemned.then_some(refusal)
    }

    /// Stores what can be stored of a condemned unit. What is left to be done goes to `left`: accounts of rows that were
    /// set aside, and what an outage interrupted.
    ///
    /// # Errors
    /// When ClickHouse went away meanwhile.
    pub async fn isolate(
        &self,
        unit: Unit,
        refusal: Refusal,
        client: &Client,
        query_ids: &(impl Fn() -> String + Sync),
        counters: &Counters,
        left: &mut Vec<Unit>,
    ) -> Result<(), AttemptError> {
        let mut spent = 0;
        // What was refused, to be halved or set aside.
        let mut work = vec![(unit, refusal)];
        while let Some((unit, refusal)) = work.pop() {
            let halves = match refusal.about {
                About::Values if spent < SEARCH => unit.halve(),
                _ => Err(unit),
            };
            let halves = match halves {
                Ok(halves) => halves,
                Err(unit) => {
                    left.extend(self.set_aside(unit, refusal, counters).await);
                    continue;
                }
            };
            for mut half in halves {
                spent += 1;
                match half.store(client, query_ids(), counters).await {
                    Ok(()) => {}
                    Err(error) => match Refusal::of(&error) {
                        Some(refusal) => work.push((half, refusal)),
                        None => {
                            left.push(half);
                            left.extend(work.into_iter().map(|(unit, _)| unit));
                            return Err(error);
                        }
                    },
                }
            }
        }
        Ok(())
    }

    /// Keeps the rows as files; gives the accounts that are to be stored before the batches are acknowledged.
    async fn set_aside(&self, unit: Unit, refusal: Refusal, counters: &Counters) -> Vec<Unit> {
        let (table, directory) = (unit.table(), self.options.directory.clone());
        let mut accounts: Vec<Unit> = Vec::new();
        for (batch, block) in unit.into_parts() {
            Counters::add(&counters.rows_unstorable[table as usize], block.rows());
            if let Some(account) = aside::account(batch, &block) {
                accounts.push(Unit::new(batch, account, true));
            }
            let (rows, refusal, directory) = (block.rows(), refusal.clone(), directory.clone());
            let reason = refusal.text.clone();
            let kept = tokio::task::spawn_blocking(move || match &directory {
                Some(directory) => aside::keep(directory, batch, &block, &refusal),
                None => Ok(None),
            });
            let file = match kept.await {
                Ok(Ok(file)) => file.map_or_else(|| "not kept".to_owned(), |file| file.display().to_string()),
                Ok(Err(error)) => format!("not kept: {error}"),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            };
            tracing::error!(
                agent = %batch.agent, sequence = batch.sequence, table = table.name(), rows, reason, file,
                "ClickHouse will never take these rows, they are set aside and counted as dropped"
            );
        }
        accounts
    }
}
