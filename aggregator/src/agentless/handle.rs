//! How the rest of the program talks to the runner: what is watched, and changes to it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use utoipa::ToSchema;

use super::shown::{Origin, TargetView};
use super::spec::{Spec, Target};
use super::{MAX_TARGETS, ORDERS, Parts, Runner};
use crate::state::{Change, Entity, Expected, State, StateError, kind};

/// What the runner is told.
pub enum Order {
    /// Watch this, in place of what had its name.
    Put(Box<Spec>, Box<Target>, Origin),
    /// No longer watch what has this name.
    Remove(String),
}

/// What is to be different; what is left out stays, and an empty text takes a value away.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Client URLs.
    pub endpoints: Option<Vec<String>>,
    /// PEM file with authorities.
    pub ca_file: Option<String>,
    /// PEM file with our client certificate.
    pub cert_file: Option<String>,
    /// PEM file with its key.
    pub key_file: Option<String>,
    /// Name that certificates must have.
    pub server_name: Option<String>,
    /// Where metrics are.
    pub metrics_url: Option<String>,
    /// How often they are read.
    pub interval: Option<String>,
}

impl Edit {
    fn apply(self, spec: &mut Spec) {
        fn set<T: From<String>>(field: &mut Option<T>, edit: Option<String>) {
            if let Some(text) = edit {
                *field = (!text.is_empty()).then(|| text.into());
            }
        }
        set(&mut spec.ca_file, self.ca_file);
        set(&mut spec.cert_file, self.cert_file);
        set(&mut spec.key_file, self.key_file);
        set(&mut spec.server_name, self.server_name);
        set(&mut spec.metrics_url, self.metrics_url);
        spec.endpoints = self.endpoints.unwrap_or_else(|| std::mem::take(&mut spec.endpoints));
        spec.interval = self.interval.unwrap_or_else(|| std::mem::take(&mut spec.interval));
    }
}

/// Why what is watched was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The spec can't be worked with.
    #[error("{}", .0.join("; "))]
    Spec(Vec<String>),
    /// The name is taken.
    #[error("a cluster named {0:?} is watched already")]
    Taken(String),
    /// Nothing has this name.
    #[error("no cluster named {0:?} is watched without agents")]
    Unknown(String),
    /// It stands in the settings.
    #[error("cluster {0:?} stands in the settings; change it there")]
    Settings(String),
    /// There are too many.
    #[error("{MAX_TARGETS} clusters are watched already, which is the limit")]
    TooMany,
    /// Somebody else changed it at the same time.
    #[error("it was changed by somebody else at the same time; try again")]
    Conflict,
    /// The state can't be read or written.
    #[error(transparent)]
    State(StateError),
    /// The process is ending.
    #[error("aggregator is stopping")]
    Stopping,
}

impl From<StateError> for ChangeError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Conflict { .. } => Self::Conflict,
            other => Self::State(other),
        }
    }
}

/// Handle to the runner. Cheap to clone.
#[derive(Clone)]
pub struct Agentless {
    state: State,
    orders: mpsc::Sender<Order>,
    shown: watch::Receiver<Arc<Vec<TargetView>>>,
    from_settings: Arc<[String]>,
}

impl Agentless {
    /// The handle and its runner, with what the settings and the state say is to be watched.
    ///
    /// # Errors
    /// When the state can't be read.
    pub async fn load(
        parts: Parts,
        state: State,
        settings: Vec<(Spec, Target)>,
    ) -> Result<(Self, Runner), StateError> {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (shown_sender, shown) = watch::channel(Arc::default());
        let mut runner = Runner::new(parts, inbox, shown_sender);
        let from_settings: Arc<[String]> = settings.iter().map(|(spec, _)| spec.name.clone()).collect();
        for entity in state.list(kind::AGENTLESS).await? {
            match stored(&entity) {
                Some((spec, _)) if from_settings.contains(&spec.name) => {
                    tracing::warn!(cluster = spec.name, "stands in the settings too, which are taken");
                }
                Some((spec, target)) => {
                    runner.obey(Order::Put(Box::new(spec), Box::new(target), Origin::Api))
                }
                None => {
                    tracing::warn!(id = entity.id, "agentless cluster in the state does not parse, skipped")
                }
            }
        }
        for (spec, target) in settings {
            runner.obey(Order::Put(Box::new(spec), Box::new(target), Origin::Settings));
        }
        Ok((Self { state, orders, shown, from_settings }, runner))
    }

    /// Everything that is watched, by name.
    pub fn targets(&self) -> Arc<Vec<TargetView>> {
        self.shown.borrow().clone()
    }

    /// Watches one more cluster, from now on and after every restart.
    ///
    /// # Errors
    /// When the spec is not usable, its name is taken, or it can't be kept.
    pub async fn add(&self, spec: Spec) -> Result<(), ChangeError> {
        let target = spec.check().map_err(ChangeError::Spec)?;
        if self.from_settings.contains(&spec.name) {
            return Err(ChangeError::Taken(spec.name));
        }
        if self.targets().len() >= MAX_TARGETS {
            return Err(ChangeError::TooMany);
        }
        match self.keep(&spec, Expected::Absent).await {
            Err(ChangeError::Conflict) => return Err(ChangeError::Taken(spec.name)),
            other => other?,
        }
        self.order(Order::Put(Box::new(spec), Box::new(target), Origin::Api)).await
    }

    /// Changes what is watched; its endpoints are asked anew.
    ///
    /// # Errors
    /// When it is not known, stands in the settings, or would not be usable.
    pub async fn edit(&self, name: &str, edit: Edit) -> Result<(), ChangeError> {
        let entity = self.find(name).await?;
        let (mut spec, _) = stored(&entity).ok_or_else(|| ChangeError::Unknown(name.to_owned()))?;
        edit.apply(&mut spec);
        let target = spec.check().map_err(ChangeError::Spec)?;
        self.keep(&spec, Expected::Version(entity.version)).await?;
        self.order(Order::Put(Box::new(spec), Box::new(target), Origin::Api)).await
    }

    /// Stops watching a cluster without agents. What is stored of it stays.
    ///
    /// # Errors
    /// When it is not known or stands in the settings.
    pub async fn remove(&self, name: &str) -> Result<(), ChangeError> {
        let entity = self.find(name).await?;
        self.state.commit(vec![Change::Delete { kind: kind::AGENTLESS, id: entity.id }]).await?;
        self.order(Order::Remove(name.to_owned())).await
    }

    async fn find(&self, name: &str) -> Result<Entity, ChangeError> {
        if self.from_settings.iter().any(|known| known == name) {
            return Err(ChangeError::Settings(name.to_owned()));
        }
        let all = self.state.list(kind::AGENTLESS).await?;
        all.into_iter().find(|entity| entity.id == name).ok_or_else(|| ChangeError::Unknown(name.to_owned()))
    }

    async fn keep(&self, spec: &Spec, expected: Expected) -> Result<(), ChangeError> {
        let json = serde_json::to_value(spec).unwrap_or_default();
        let put = Change::Put { kind: kind::AGENTLESS, id: spec.name.clone(), expected, json };
        self.state.commit(vec![put]).await?;
        Ok(())
    }

    async fn order(&self, order: Order) -> Result<(), ChangeError> {
        self.orders.send(order).await.map_err(|_ended| ChangeError::Stopping)
    }
}

fn stored(entity: &Entity) -> Option<(Spec, Target)> {
    let spec: Spec = serde_json::from_value(entity.json.clone()).ok()?;
    let target = spec.check().ok()?;
    Some((spec, target))
}
