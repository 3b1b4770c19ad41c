//! Both ports' TLS, made from the settings.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::Utc;
use rustls::RootCertStore;
use rustls::server::danger::ClientCertVerifier;
use tokio_util::sync::CancellationToken;

use super::identity::{add_authorities, server_config};
use super::watch::{Gauges, Reloading, Watched};
use super::{AgentCertificate, AgentVerifier, Identity, OwnCertificate, Presented, TlsError};
use crate::config::{Config, IngestTls, KeyPairFiles, TlsMode};
use crate::enrol::{Authority, Counters, Desk, DeskHandle, DeskParts, Enrolments, SERVER_RENEWAL, Standing};
use crate::ingest::{self, Door, TlsPort};
use crate::state::{State, StateError};

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Files or authority.
    #[error("TLS")]
    Tls(#[from] TlsError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
}

/// TLS of both ports, and what keeps it up to date.
pub struct Ports {
    /// Of the API.
    pub api: Option<Arc<rustls::ServerConfig>>,
    /// Of the ingest.
    pub ingest: Option<TlsPort>,
    /// What streams need to begin.
    pub door: Door,
    /// What `/metrics` tells.
    pub gauges: Gauges,
    /// What enrolment counts.
    pub counters: Arc<Counters>,
    desk: Option<Desk>,
    reloading: Reloading,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ports").field("ingest", &self.ingest).finish_non_exhaustive()
    }
}

/// Reads files, opens the authority where one is needed.
///
/// # Errors
/// When files can't be used, or the authority or the book can't be read or written.
pub async fn prepare(
    config: &Config,
    state: &State,
    ingest: &ingest::Counters,
) -> Result<Ports, PrepareError> {
    let gauges = Gauges::default();
    let mut ports = Ports {
        api: None,
        ingest: None,
        door: Door::Open,
        gauges: gauges.clone(),
        counters: Arc::default(),
        desk: None,
        reloading: Reloading::new(gauges),
    };
    if let Some(files) = &config.api_tls {
        let identity = ports.given("api", files)?;
        let config =
            server_config(Arc::new(identity), None, &[b"h2", b"http/1.1"]).map_err(TlsError::Setup)?;
        ports.api = Some(Arc::new(config));
    }
    if config.ingest_tls.mode != TlsMode::Off {
        ports.open_ingest(config, state, ingest).await?;
    }
    Ok(ports)
}

impl Ports {
    /// The desk, where agents can enrol.
    pub fn desk(&self) -> Option<DeskHandle> {
        self.ingest.as_ref()?.enrolments.as_ref().map(Enrolments::desk)
    }

    /// Starts what keeps certificates and the book up to date, until `stop`.
    pub fn start(&mut self, stop: &CancellationToken) {
        if let Some(desk) = self.desk.take() {
            tokio::spawn(desk.run());
        }
        tokio::spawn(std::mem::take(&mut self.reloading).run(stop.clone()));
        if let Some(own) = self.ingest.as_ref().and_then(|ingest| ingest.own.clone()) {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(SERVER_RENEWAL);
                ticks.tick().await;
                while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                    own.renew();
                }
            });
        }
    }

    /// A certificate from files, read again when they change.
    fn given(&mut self, name: &'static str, files: &KeyPairFiles) -> Result<Identity, TlsError> {
        let identity = Identity::new(Presented::read(&files.certificate, &files.key)?);
        let (kept, files) = (identity.clone(), files.clone());
        let paths = vec![files.certificate.clone(), files.key.clone()];
        self.reloading.add(Watched::new(paths, move || {
            kept.replace(Presented::read(&files.certificate, &files.key)?);
            Ok(())
        }));
        let shown = identity.clone();
        self.gauges.watch(name, move || shown.current().not_after);
        Ok(identity)
    }

    async fn open_ingest(
        &mut self,
        config: &Config,
        state: &State,
        ingest: &ingest::Counters,
    ) -> Result<(), PrepareError> {
        let settings = &config.ingest_tls;
        let authority =
            settings.enrolment.then(|| Authority::open(&config.state_dir, Utc::now())).transpose();
        let authority = authority.map_err(|error| TlsError::Own(Box::new(error.into())))?;
        let standing = Standing::default();
        let own = match (&settings.certificate, &authority) {
            (None, Some(authority)) => Some(own_certificate(config, authority)?),
            _ => None,
        };
        let identity = match (&settings.certificate, &own) {
            (Some(files), _) => self.given("ingest", files)?,
            (None, Some(own)) => {
                let identity = own.identity();
                let shown = identity.clone();
                self.gauges.watch("ingest", move || shown.current().not_after);
                identity
            }
            // Refused by the settings already.
            (None, None) => return Ok(()),
        };
        if let Some(authority) = &authority {
            let not_after = authority
                .trusted()
                .first()
                .and_then(|der| AgentCertificate::parse(der))
                .map(|ca| ca.not_after);
            self.gauges.watch("enrolment_authority", move || not_after);
        }
        let verifier = self.verifier(settings, authority.as_ref(), &standing, ingest)?;
        let tls = server_config(Arc::new(identity), verifier, &[b"h2"]).map_err(TlsError::Setup)?;
        let enrolments = match authority {
            Some(authority) => {
                Some(self.open_desk(settings, state, authority, &standing, own.is_some()).await?)
            }
            None => None,
        };
        let required = settings.mode == TlsMode::Mutual;
        self.door = Door::Certificates { standing, required };
        self.ingest = Some(TlsPort { config: Arc::new(tls), own, enrolments, required });
        Ok(())
    }

    async fn open_desk(
        &mut self,
        settings: &IngestTls,
        state: &State,
        authority: Authority,
        standing: &Standing,
        serves: bool,
    ) -> Result<Enrolments, StateError> {
        let (desk, handle) = Desk::open(DeskParts {
            authority: authority.clone(),
            pins: serves,
            life: settings.certificate_life,
            state: state.clone(),
            standing: standing.clone(),
            counters: Arc::clone(&self.counters),
        })
        .await?;
        self.desk = Some(desk);
        Ok(Enrolments::new(handle, authority, serves, Arc::clone(&self.counters)))
    }

    /// Whoever may sign agents' certificates; `None` when nobody may.
    fn verifier(
        &mut self,
        settings: &IngestTls,
        authority: Option<&Authority>,
        standing: &Standing,
        ingest: &ingest::Counters,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let trusted = authority.map(|authority| authority.trusted().to_vec()).unwrap_or_default();
        let file = settings.client_authorities.clone();
        if trusted.is_empty() && file.is_none() {
            return Ok(None);
        }
        let roots = move |file: Option<&PathBuf>| -> Result<RootCertStore, TlsError> {
            let mut roots = RootCertStore::empty();
            for der in &trusted {
                roots.add(der.clone()).map_err(TlsError::Setup)?;
            }
            file.map_or(Ok(()), |file| add_authorities(&mut roots, file))?;
            Ok(roots)
        };
        let refused = Arc::clone(&ingest.certificates_refused);
        let verifier = AgentVerifier::new(roots(file.as_ref())?, standing.clone(), refused);
        let verifier = Arc::new(verifier.map_err(TlsError::Setup)?);
        if let Some(file) = file {
            let kept = Arc::clone(&verifier);
            self.reloading.add(Watched::new(vec![file.clone()], move || {
                kept.trust(roots(Some(&file))?).map_err(TlsError::Setup)
            }));
        }
        Ok(Some(verifier))
    }
}

/// For the host's name and the address that it listens on; connections add the addresses that they come in at.
fn own_certificate(config: &Config, authority: &Authority) -> Result<OwnCertificate, TlsError> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut names = vec!["localhost".to_owned()];
    names.extend(Some(host.trim().to_owned()).filter(|host| !host.is_empty()));
    names.extend(config.ingest_tls.names.iter().cloned());
    let address = config.ingest.ip();
    let addresses: BTreeSet<_> = (!address.is_unspecified()).then_some(address).into_iter().collect();
    Ok(OwnCertificate::new(authority.clone(), names, addresses)?)
}
