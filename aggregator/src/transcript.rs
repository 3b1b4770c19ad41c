//! Alerts' and diagnoses' transitions on their way into ClickHouse: the aggregator is an agent of itself.
//!
//! The state's logs come first, and alerting knows no more than them. This task reads them from where it was, writes rows
//! through the store as any agent's (and names of members), and then notes how far it is. A row is named by (agent, epoch, time, number of its line), so
//! a line that is read again after a crash is found to be there. While ClickHouse is away lines wait in their log; those that
//! grow so old there that they are dropped first are counted ([`State::untold_lines`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use etcdmon_service::logging::ErrorChain;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::names::Names;
use crate::diagnosis::DiagnosisView;
use crate::rule::Labels;
use crate::state::{Change, Expected, LogEntry, State, StateError, TOLD, kind, log};
use crate::store::block::{Block, Column, Dictionary, Value as Same};
use crate::store::{BatchId, Client, Decoded, Stopping, Store, Table};
use crate::view::View;

mod names;

/// How often names are looked at.
const NAMES_EVERY: Duration = Duration::from_secs(30);

/// How often it looks for news.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Lines that are read at a time.
const LINES: u32 = 500;

/// Why it got no further; it goes on from there.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

/// See the module.
pub struct Transcript {
    state: State,
    store: Store,
    installation: Uuid,
    /// Number of the last line that is stored, by log.
    told: BTreeMap<&'static str, i64>,
    /// Lines up to here may have been stored by the process before.
    uncertain: bool,
    names: Names,
}

impl Transcript {
    /// From where the process before was. `view` and `client` are for the names of clusters and members.
    ///
    /// # Errors
    /// When the state can't be read.
    pub async fn load(
        state: State,
        store: Store,
        installation: Uuid,
        view: watch::Receiver<Arc<View>>,
        client: Client,
    ) -> Result<Self, StateError> {
        let entities = state.list(kind::TRANSCRIPT).await?;
        let told = TOLD.map(|log| {
            let known = entities.iter().find(|entity| entity.id == log);
            (log, known.and_then(|entity| entity.json["number"].as_i64()).unwrap_or(0))
        });
        let names = Names::new(client, view);
        Ok(Self { state, store, installation, told: told.into(), uncertain: true, names })
    }

    /// Works until `stop`. What is not stored by then follows after the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let work = async {
            let mut named: Option<Instant> = None;
            loop {
                if self.store.is_ready() && named.is_none_or(|at| at.elapsed() >= NAMES_EVERY) {
                    named = Some(Instant::now());
                    if let Err(error) = self.names.write().await {
                        tracing::warn!(%error, "names of members not stored, will try again");
                    }
                }
                match self.tell().await {
                    Ok(()) => {}
                    Err(TellError::Stopping(_)) => return,
                    Err(error) => {
                        tracing::warn!(error = %ErrorChain(&error), "transitions not stored, will try again")
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Stores what is new.
    async fn tell(&mut self) -> Result<(), TellError> {
        for log in TOLD {
            loop {
                let from = self.told.get(log).copied().unwrap_or(0);
                let lines = self.state.log_after(log, from, LINES).await?;
                let Some(last) = lines.last().map(|line| line.number) else { break };
                let writes = self.batches(log, lines).into_iter();
                let writes = writes.map(|batch| self.store.write(batch, self.uncertain));
                futures::future::try_join_all(writes).await?;
                let (id, json) = (log.to_owned(), json!({"number": last}));
                let put = Change::Put { kind: kind::TRANSCRIPT, id, expected: Expected::Anything, json };
                self.state.commit(vec![put]).await?;
                self.told.insert(log, last);
            }
        }
        self.uncertain = false;
        Ok(())
    }

    /// A batch for each moment: its time is its sequence, so that a state that was restored, whose lines have old numbers again,
    /// makes no rows that seem to be known.
    fn batches(&self, log: &'static str, lines: Vec<LogEntry>) -> Vec<Decoded> {
        let mut moments: BTreeMap<i64, Vec<LogEntry>> = BTreeMap::new();
        lines.into_iter().for_each(|line| moments.entry(line.at_ns).or_default().push(line));
        let epoch = derive(self.installation, log);
        let batch = |(at_ns, lines): (i64, Vec<LogEntry>)| {
            let sequence = u64::try_from(at_ns).unwrap_or(0);
            let id = BatchId { agent: derive(self.installation, "aggregator"), epoch, sequence };
            let block = match log {
                log::ALERT => alerts(id, at_ns, &lines),
                _ => diagnoses(id, at_ns, &lines),
            };
            Decoded { id, blocks: block.into_iter().collect(), unknown_rows: 0 }
        };
        moments.into_iter().map(batch).filter(|batch| !batch.blocks.is_empty()).collect()
    }
}

/// A lasting id of this installation for a purpose.
fn derive(installation: Uuid, purpose: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"transcript");
    hash.update(purpose.as_bytes());
    hash.update(installation.as_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// A line of the log of alerts. Lines of earlier versions lack what has a default.
#[derive(Deserialize)]
struct AlertLine {
    fingerprint: String,
    state: String,
    labels: Labels,
    annotations: Labels,
    /// JSON has no infinity.
    value: Option<f64>,
    started_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct DiagnosisLine {
    transition: String,
    diagnosis: Value,
}

/// The columns that every table begins with.
struct Rows {
    id: BatchId,
    at_ns: i64,
    numbers: Vec<u32>,
    clusters: Dictionary,
    members: Vec<u64>,
}

impl Rows {
    fn new(id: BatchId, at_ns: i64) -> Self {
        Self { id, at_ns, numbers: Vec::new(), clusters: Dictionary::default(), members: Vec::new() }
    }

    fn push(&mut self, line: &LogEntry, cluster: &str, member: &str) {
        // Lines of one moment lie closer together than 2^32.
        self.numbers.push(line.number as u32);
        let nil = Uuid::nil().to_string();
        self.clusters.push(if cluster.is_empty() { &nil } else { cluster });
        self.members.push(u64::from_str_radix(member, 16).unwrap_or(0));
    }

    fn block(self, table: Table, rest: Vec<Column>) -> Option<Block> {
        let rows = self.numbers.len();
        let mut columns = vec![
            Column::Same(Same::Uuid(self.id.agent), rows),
            Column::Same(Same::Uuid(self.id.epoch), rows),
            Column::Same(Same::U64(self.id.sequence), rows),
            Column::U32(self.numbers),
            Column::Text(self.clusters),
            Column::U64(self.members),
            Column::Time(vec![self.at_ns; rows]),
        ];
        columns.extend(rest);
        (rows > 0).then(|| Block::new(table, columns))
    }
}

fn parsed<T: for<'a> Deserialize<'a>>(lines: &[LogEntry]) -> impl Iterator<Item = (&LogEntry, T)> {
    lines.iter().filter_map(|line| match T::deserialize(&line.json) {
        Ok(parsed) => Some((line, parsed)),
        Err(error) => {
            tracing::warn!(line = line.number, %error, "line of the state's log does not parse, not stored");
            None
        }
    })
}

fn alerts(id: BatchId, at_ns: i64, lines: &[LogEntry]) -> Option<Block> {
    let mut rows = Rows::new(id, at_ns);
    let [mut rules, mut severities, mut states] = [(); 3].map(|()| Dictionary::default());
    let [mut fingerprints, mut summaries, mut labels, mut annotations] = [(); 4].map(|()| Vec::new());
    let (mut values, mut started) = (Vec::new(), Vec::new());
    for (line, alert) in parsed::<AlertLine>(lines) {
        let text = |map: &Labels, name: &str| map.get(name).cloned().unwrap_or_default();
        rows.push(line, &text(&alert.labels, "cluster_id"), &text(&alert.labels, "member"));
        rules.push(&text(&alert.labels, "alertname"));
        severities.push(&text(&alert.labels, "severity"));
        states.push(&alert.state);
        fingerprints.push(alert.fingerprint);
        summaries.push(text(&alert.annotations, "summary"));
        labels.push(json!(alert.labels).to_string());
        annotations.push(json!(alert.annotations).to_string());
        values.push(alert.value.unwrap_or(0.0));
        started.push(alert.started_at.and_then(|at| at.timestamp_nanos_opt()).unwrap_or(at_ns));
    }
    rows.block(
        Table::Alerts,
        vec![
            Column::Long(fingerprints),
            Column::Text(rules),
            Column::Text(severities),
            Column::Text(states),
            Column::F64(values),
            Column::Time(started),
            Column::Long(summaries),
            Column::Long(labels),
            Column::Long(annotations),
        ],
    )
}

fn diagnoses(id: BatchId, at_ns: i64, lines: &[LogEntry]) -> Option<Block> {
    let mut rows = Rows::new(id, at_ns);
    let [mut states, mut causes, mut confidences] = [(); 3].map(|()| Dictionary::default());
    let [mut culprits, mut summaries, mut next_steps, mut evidence] = [(); 4].map(|()| Vec::new());
    let (mut incidents, mut shares, mut onsets) = (Vec::new(), Vec::new(), Vec::new());
    for (line, told) in parsed::<DiagnosisLine>(lines) {
        let Ok(view) = DiagnosisView::deserialize(&told.diagnosis) else {
            tracing::warn!(line = line.number, "diagnosis in the state's log does not parse, not stored");
            continue;
        };
        rows.push(line, told.diagnosis["cluster"].as_str().unwrap_or_default(), &view.member);
        incidents.push(view.id);
        states.push(&told.transition);
        causes.push(view.cause.name());
        confidences.push(view.confidence.name());
        shares.push(view.share);
        onsets.push(view.onset_at.timestamp_nanos_opt().unwrap_or(at_ns));
        culprits.push(view.culprit.as_ref().map(|culprit| culprit.name()).unwrap_or_default());
        evidence.push(
            json!({"culprit": view.culprit, "culprits": view.culprits, "evidence": view.evidence, "ruled_out": view.ruled_out})
                .to_string(),
        );
        summaries.push(view.summary);
        next_steps.push(view.next_step);
    }
    rows.block(
        Table::Diagnoses,
        vec![
            Column::Uuid(incidents),
            Column::Text(states),
            Column::Text(causes),
            Column::Text(confidences),
            Column::F64(shares),
            Column::Time(onsets),
            Column::Long(culprits),
            Column::Long(summaries),
            Column::Long(next_steps),
            Column::Long(evidence),
        ],
    )
}
