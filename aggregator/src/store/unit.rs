//! Rows of one table and day on their way into the table.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::block::{Block, native};
use super::client::Client;
use super::counters::Counters;
use super::decode::BatchId;
use super::flush::{AttemptError, within};
use super::frontier::{Frontier, Passage, SOURCES, minutes_of};
use super::isolate::Refused;
use super::presence::{self, Present, Question};
use super::settle;
use super::table::Table;

/// Encoded chunks that may wait for the connection.
const CHUNKS: usize = 2;

/// How long the connection may not take a chunk.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long ClickHouse may take to write an insert once it has all rows.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// One insert's worth of rows. Kept until all of them are known to be in the table.
pub struct Unit {
    table: Table,
    parts: Arc<Vec<Part>>,
    /// The table may have some of the rows.
    uncertain: bool,
    /// An attempt that may still be running.
    earlier: Option<Attempt>,
    /// How often ClickHouse refused it for good.
    pub(super) refused: Option<Refused>,
    /// Rises when an insert ended well but its rows are not there: its token must not be used again.
    token_generation: u32,
    /// Keeps the rollups from passing its rows unseen, until they are there.
    passage: Option<Arc<Passage>>,
}

/// One batch's rows; never none.
#[derive(Clone)]
struct Part {
    batch: BatchId,
    block: Block,
}

#[derive(Clone)]
struct Attempt {
    query_id: String,
    /// Of the embedded engine.
    generation: u64,
}

impl Unit {
    /// A unit with the rows of one batch.
    pub fn new(batch: BatchId, block: Block, uncertain: bool) -> Self {
        let table = block.table;
        let parts = Arc::new(vec![Part { batch, block }]);
        Self { table, parts, uncertain, earlier: None, refused: None, token_generation: 0, passage: None }
    }

    /// Tells the rollups which minutes it has rows of; once for all attempts.
    ///
    /// # Errors
    /// When ClickHouse does not take the marks of late minutes.
    pub async fn announce(&mut self, client: &Client, frontier: &Arc<Frontier>) -> Result<(), AttemptError> {
        if self.passage.is_some() || !SOURCES.contains(&self.table) {
            return Ok(());
        }
        let mut minutes = BTreeSet::new();
        self.parts.iter().for_each(|part| minutes.append(&mut minutes_of(part.block.times())));
        let connection = client.connect()?;
        let passage = within("mark late minutes", frontier.enter(&connection, self.table, &minutes)).await?;
        self.passage = passage.map(Arc::new);
        Ok(())
    }

    /// Adds rows of another batch.
    pub fn add(&mut self, batch: BatchId, block: Block) {
        debug_assert_eq!(self.table, block.table);
        Arc::make_mut(&mut self.parts).push(Part { batch, block });
    }

    /// Its table.
    pub fn table(&self) -> Table {
        self.table
    }

    /// Its rows by batch.
    pub fn into_parts(self) -> impl Iterator<Item = (BatchId, Block)> {
        Arc::unwrap_or_clone(self.parts).into_iter().map(|part| (part.batch, part.block))
    }

    /// Two units of half the batches, or of half the rows of its only batch; the unit itself when it is a single row.
    /// An attempt under way goes along with both, and is ended twice: the second time at no cost.
    pub fn halve(self) -> Result<[Self; 2], Self> {
        let half = match self.parts.as_slice() {
            [part] if part.block.rows() <= 1 => return Err(self),
            [part] => {
                let rows = u32::try_from(part.block.rows()).expect("a batch has fewer rows than u32 holds");
                let some = |rows: std::ops::Range<u32>| {
                    let block = part.block.select(&rows.collect::<Vec<_>>());
                    vec![Part { batch: part.batch, block }]
                };
                (some(0..rows / 2), some(rows / 2..rows))
            }
            parts => {
                let (first, second) = parts.split_at(parts.len() / 2);
                (first.to_vec(), second.to_vec())
            }
        };
        let unit = |parts: Vec<Part>| Self {
            table: self.table,
            parts: Arc::new(parts),
            uncertain: self.uncertain,
            earlier: self.earlier.clone(),
            refused: self.refused,
            token_generation: self.token_generation,
            passage: self.passage.clone(),
        };
        Ok([unit(half.0), unit(half.1)])
    }

    /// Rows that are not known to be in the table.
    fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.block.rows()).sum()
    }

    /// Sees to it that the table has all rows, once each.
    pub async fn store(
        &mut self,
        client: &Client,
        query_id: String,
        counters: &Counters,
    ) -> Result<(), AttemptError> {
        self.end_earlier(client).await?;
        if self.uncertain {
            let present = self.ask(client, counters).await?;
            Counters::add(&counters.rows_present, self.remove(&present));
            if self.parts.is_empty() {
                return Ok(());
            }
        }
        let result = self.insert(client, query_id).await;
        Counters::add(if result.is_ok() { &counters.inserts } else { &counters.inserts_failed }, 1);
        result?;
        let inserted = self.rows();
        if self.uncertain {
            // The token of an earlier attempt may have made the table drop this one: only its answer counts.
            let present = self.ask(client, counters).await?;
            self.remove(&present);
            if !self.parts.is_empty() {
                self.token_generation += 1;
                return Err(AttemptError::Missing { table: self.table.name() });
            }
        }
        Counters::add(counters.rows_stored(self.table), inserted);
        Ok(())
    }

    /// Ends the attempt before, if there was one.
    async fn end_earlier(&mut self, client: &Client) -> Result<(), AttemptError> {
        let Some(earlier) = &self.earlier else { return Ok(()) };
        self.uncertain = true;
        // A child of another generation has none of its predecessor's inserts.
        if client.generation()? == earlier.generation {
            let connection = client.connect()?;
            within("end an earlier insert", settle::end_attempt(&connection, &earlier.query_id)).await?;
        }
        self.earlier = None;
        Ok(())
    }

    /// Which of the rows the table has.
    async fn ask(&self, client: &Client, counters: &Counters) -> Result<Present, AttemptError> {
        let mut question = Question::default();
        self.parts.iter().for_each(|part| question.add(part.batch, part.block.times()));
        Counters::add(&counters.presence_checks, 1);
        let connection = client.connect()?;
        within("ask for rows", presence::ask(&connection, self.table, &question)).await
    }

    /// Takes out the rows that are present; gives their number.
    fn remove(&mut self, present: &Present) -> usize {
        let none = HashSet::new();
        let before = self.rows();
        let missing = |part: &Part| {
            let has = present.get(&part.batch).unwrap_or(&none);
            let numbers = (0u32..).zip(part.block.row_numbers());
            let keep: Vec<u32> =
                numbers.filter(|(_, number)| !has.contains(number)).map(|(row, _)| row).collect();
            match keep.len() {
                0 => None,
                all if all == part.block.rows() => Some(part.clone()),
                _ => Some(Part { batch: part.batch, block: part.block.select(&keep) }),
            }
        };
        if !present.is_empty() {
            self.parts = Arc::new(self.parts.iter().filter_map(missing).collect());
        }
        before - self.rows()
    }

    async fn insert(&mut self, client: &Client, query_id: String) -> Result<(), AttemptError> {
        let connection = client.connect()?;
        // Read after the connection: at worst a newer generation, in which nothing is found to be ended.
        let generation = client.generation()?;
        let mut insert = connection
            .insert_formatted_with(self.table.insert_statement())
            .with_setting("query_id", &query_id)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplication_token", self.token())
            .with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT));
        self.earlier = Some(Attempt { query_id, generation });
        let mut chunks = self.encode();
        let failed = |source| AttemptError::Statement { what: "insert", source };
        while let Some(chunk) = chunks.recv().await {
            insert.send(chunk).await.map_err(failed)?;
        }
        chunks.ended().await;
        insert.end().await.map_err(failed)?;
        self.earlier = None;
        Ok(())
    }

    /// The rows in Native format, encoded on a thread of its own while the connection takes what is done.
    fn encode(&self) -> Chunks {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let parts = self.parts.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let blocks: Vec<&Block> = parts.iter().map(|part| &part.block).collect();
            native::encode(&blocks, &mut |chunk: Vec<u8>| sender.blocking_send(Bytes::from(chunk)).is_ok());
        });
        Chunks { chunks, thread }
    }

    /// The same for the same rows, so that the table itself drops a second insert of them.
    fn token(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.table.name());
        hash.update(self.token_generation.to_le_bytes());
        for part in self.parts.iter() {
            hash.update(part.batch.agent.as_bytes());
            hash.update(part.batch.epoch.as_bytes());
            hash.update(part.batch.sequence.to_le_bytes());
            // Runs of numbers that rise by one: nearly always one run.
            for run in part.block.row_numbers().chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
                hash.update(run[0].to_le_bytes());
                hash.update((run.len() as u64).to_le_bytes());
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Encoded bytes as they come, and the thread that makes them.
struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    thread: tokio::task::JoinHandle<()>,
}

impl Chunks {
    async fn recv(&mut self) -> Option<Bytes> {
        self.chunks.recv().await
    }

    /// An encoder that panicked has written half of a block: that must never look like the end of an insert.
    async fn ended(self) {
        if let Err(panic) = self.thread.await {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
}
