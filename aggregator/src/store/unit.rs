//! Rows of one table and day on their way into the table.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::block::Block;
use super::client::Client;
use super::counters::Counters;
use super::decode::BatchId;
use super::flush::{AttemptError, within};
use super::presence::{self, Present, Question};
use super::settle;

/// Bytes handed to the connection at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// How long the connection may not take a chunk.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long ClickHouse may take to write an insert once it has all rows.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// One insert's worth of rows. Kept until all of them are known to be in the table.
pub struct Unit {
    block: Arc<Block>,
    /// Batches in it with their number of rows, in the order of the block.
    batches: Vec<(BatchId, usize)>,
    /// The table may have some of the rows.
    uncertain: bool,
    /// An attempt that may still be running.
    earlier: Option<Attempt>,
    /// Rises when an insert ended well but its rows are not there: its token must not be used again.
    token_generation: u32,
}

struct Attempt {
    query_id: String,
    /// Of the embedded engine.
    generation: u64,
}

impl Unit {
    /// A unit with the rows of one batch.
    pub fn new(block: Block, batch: (BatchId, usize), uncertain: bool) -> Self {
        Self { block: Arc::new(block), batches: vec![batch], uncertain, earlier: None, token_generation: 0 }
    }

    /// Adds rows of another batch.
    pub fn add(&mut self, block: &Block, batch: (BatchId, usize)) {
        Arc::make_mut(&mut self.block).append(block);
        self.batches.push(batch);
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
            if self.block.rows() == 0 {
                return Ok(());
            }
        }
        let result = self.insert(client, query_id).await;
        Counters::add(if result.is_ok() { &counters.inserts } else { &counters.inserts_failed }, 1);
        result?;
        let inserted = self.block.rows();
        if self.uncertain {
            // The token of an earlier attempt may have made the table drop this one: only its answer counts.
            let present = self.ask(client, counters).await?;
            self.remove(&present);
            if self.block.rows() > 0 {
                self.token_generation += 1;
                return Err(AttemptError::Missing { table: self.block.table.name() });
            }
        }
        Counters::add(counters.rows_stored(self.block.table), inserted);
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
        let (mut question, mut begin) = (Question::default(), 0);
        for (batch, rows) in &self.batches {
            question.add(*batch, &self.block.times()[begin..begin + rows]);
            begin += rows;
        }
        Counters::add(&counters.presence_checks, 1);
        let connection = client.connect()?;
        within("ask for rows", presence::ask(&connection, self.block.table, &question)).await
    }

    /// Takes out the rows that are present; gives their number.
    fn remove(&mut self, present: &Present) -> usize {
        let none = HashSet::new();
        let numbers = self.block.row_numbers();
        let (mut keep, mut batches, mut begin) = (Vec::new(), Vec::new(), 0u32);
        for (batch, rows) in &self.batches {
            let has = present.get(batch).unwrap_or(&none);
            let before = keep.len();
            let end = begin + u32::try_from(*rows).expect("a unit has fewer rows than u32 holds");
            keep.extend((begin..end).filter(|row| !has.contains(&numbers[*row as usize])));
            begin = end;
            if keep.len() > before {
                batches.push((*batch, keep.len() - before));
            }
        }
        let removed = self.block.rows() - keep.len();
        if removed > 0 {
            self.block = Arc::new(self.block.select(&keep));
            self.batches = batches;
        }
        removed
    }

    async fn insert(&mut self, client: &Client, query_id: String) -> Result<(), AttemptError> {
        let block = self.block.clone();
        let encoded = tokio::task::spawn_blocking(move || Bytes::from(block.to_native())).await;
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let connection = client.connect()?;
        // Read after the connection: at worst a newer generation, in which nothing is found to be ended.
        let generation = client.generation()?;
        let mut insert = connection
            .insert_formatted_with(self.block.table.insert_statement())
            .with_setting("query_id", &query_id)
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplication_token", self.token())
            .with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT));
        self.earlier = Some(Attempt { query_id, generation });
        let mut rest = encoded;
        let failed = |source| AttemptError::Statement { what: "insert", source };
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            insert.send(chunk).await.map_err(failed)?;
        }
        insert.end().await.map_err(failed)?;
        self.earlier = None;
        Ok(())
    }

    /// The same for the same rows, so that the table itself drops a second insert of them.
    fn token(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.block.table.name());
        hash.update(self.token_generation.to_le_bytes());
        for (batch, rows) in &self.batches {
            hash.update(batch.agent.as_bytes());
            hash.update(batch.epoch.as_bytes());
            hash.update(batch.sequence.to_le_bytes());
            hash.update((*rows as u64).to_le_bytes());
        }
        for number in self.block.row_numbers() {
            hash.update(number.to_le_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
