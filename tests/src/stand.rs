//! All of it together: a cluster under load, an agent, an aggregator, a receiver for its alerts.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};

use crate::api::{Api, Blind, from_now, losses};
use crate::etcd::{Builder, Cluster};
use crate::load::{Load, Plan};
use crate::metrics::WAL_FSYNC;
use crate::node::{Agent, Aggregator, data_dirs};
use crate::place::Place;
use crate::receiver::Receiver;
use crate::wait;

/// How long a fact may take from the kernel to the API: a second's histogram, the batch, the insert, and a machine
/// that is busy with other tests.
pub const VISIBLE_LIMIT: Duration = Duration::from_secs(30);

/// Stored counts that stay the same for this long under no load are complete.
const CALM: Duration = Duration::from_secs(4);

/// An aggregator that was prepared but not started, and the receiver it sends its alerts to.
#[derive(Debug)]
pub struct Centre {
    /// Not started yet: its settings may be changed.
    pub aggregator: Aggregator,
    /// Where its webhooks go.
    pub receiver: Receiver,
}

impl Centre {
    /// Prepares both.
    ///
    /// # Errors
    /// When the aggregator has not been built, or no port can be had.
    pub async fn prepare(place: &Place) -> Result<Self> {
        let receiver = Receiver::start().await?;
        let aggregator = Aggregator::prepare(place, "aggregator", &[receiver.url()])?;
        Ok(Self { aggregator, receiver })
    }
}

/// The running whole. Fields are in the order in which they go.
#[derive(Debug)]
pub struct Stand {
    /// Puts on the cluster.
    pub load: Load,
    /// One agent for all members.
    pub agent: Agent,
    /// The aggregator.
    pub aggregator: Aggregator,
    /// Where its webhooks go.
    pub receiver: Receiver,
    /// The cluster.
    pub cluster: Cluster,
    /// A client of the aggregator.
    pub api: Api,
    /// The product's id of the cluster.
    pub id: String,
    /// When the stand was begun: nothing of its own is older.
    pub since: SystemTime,
    /// Where everything lies.
    pub place: Arc<Place>,
}

impl Stand {
    /// Starts all of it, and waits until syncs measured in the kernel can be read back over the API.
    ///
    /// # Errors
    /// When a part does not start, or no sync becomes visible.
    pub async fn start(place: &Arc<Place>, cluster: Builder, plan: &Plan) -> Result<Self> {
        let stand = Self::begin(place, cluster, plan).await?;
        stand.wait_visible().await?;
        Ok(stand)
    }

    /// Starts all of it, and waits only until the aggregator knows the cluster.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn begin(place: &Arc<Place>, cluster: Builder, plan: &Plan) -> Result<Self> {
        let centre = Centre::prepare(place).await?;
        let ingest = centre.aggregator.ingest.clone();
        Self::around(place, centre, cluster, plan, &ingest, None).await
    }

    /// The same around an aggregator that was prepared. The agent sends to `ingest`; its state directory is
    /// `agent_state` if that is given.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn around(
        place: &Arc<Place>,
        centre: Centre,
        cluster: Builder,
        plan: &Plan,
        ingest: &str,
        agent_state: Option<&Path>,
    ) -> Result<Self> {
        let since = from_now();
        let Centre { mut aggregator, receiver } = centre;
        // The engine loads while etcd elects.
        aggregator.daemon.spawn()?;
        let cluster = cluster.start(place).await?;
        aggregator.daemon.wait_ready().await?;
        let mut agent = Agent::prepare(place, "agent", ingest, &data_dirs(&cluster))?;
        if let Some(state) = agent_state {
            agent.daemon = agent.daemon.set("--state-dir", state.to_string_lossy());
        }
        agent.daemon.start().await?;
        let load = Load::start(&cluster, plan)?;
        let api = aggregator.client()?;
        let id = api.wait_cluster(cluster.id().await?, VISIBLE_LIMIT).await?;
        Ok(Self { load, agent, aggregator, receiver, cluster, api, id, since, place: place.clone() })
    }

    /// Waits until every running member has stored WAL syncs.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn wait_visible(&self) -> Result<()> {
        let wanted = self.cluster.members.iter().filter(|member| member.process().is_ok()).count();
        wait::until("WAL syncs of every member to be readable over the API", VISIBLE_LIMIT, async || {
            let counts = self.api.sync_counts(&self.id, self.since).await?;
            let seen = counts.iter().filter(|count| count.class == "wal" && count.count > 0).count();
            ensure!(seen >= wanted, "{seen} of {wanted} members: {counts:?}");
            Ok(Some(()))
        })
        .await
    }

    /// Syncs that are stored, of these classes (all when empty), once no more arrive.
    ///
    /// # Errors
    /// When the API does not answer or the count never settles.
    pub async fn settled(&self, classes: &[&str]) -> Result<u64> {
        wait::settled("the stored count", CALM, Duration::from_secs(60), async || {
            self.api.stored(&self.id, self.since, classes).await
        })
        .await
    }

    /// Syncs reported as dropped, and stretches without sight, so far.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn losses(&self) -> Result<(u64, Vec<Blind>)> {
        Ok(losses(&self.api.ledger(&self.id, self.since).await?))
    }

    /// WAL syncs by etcd's own counters, over all members.
    ///
    /// # Errors
    /// When a member does not answer.
    pub async fn wal_syncs_by_etcd(&self) -> Result<u64> {
        let mut sum = 0;
        for index in 0..self.cluster.members.len() {
            sum += self.cluster.metrics(index).await?.count(WAL_FSYNC)?;
        }
        Ok(sum)
    }

    /// Stops the load and lets etcd finish what follows from it.
    ///
    /// # Errors
    /// When a put stays unanswered.
    pub async fn rest(&self) -> Result<()> {
        self.load.pause().await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// The end that users see: SIGTERM to both processes, neither may have panicked.
    ///
    /// # Errors
    /// When one of them does not end gracefully, or ever panicked.
    pub fn finish(mut self) -> Result<()> {
        self.agent.daemon.terminate()?;
        self.aggregator.daemon.terminate()?;
        self.agent.daemon.check_never_panicked()?;
        self.aggregator.daemon.check_never_panicked()
    }
}
