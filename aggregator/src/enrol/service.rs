//! Enrolment over gRPC.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use etcdmon_proto::v1;
use etcdmon_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use etcdmon_service::logging::ErrorChain;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::authority::{Authority, requested_key};
use super::book::{Issued, Refusal};
use super::desk::{Applicant, Counters, DeskError, DeskHandle};
use super::limit::Limit;
use super::token::JoinToken;
use crate::ingest::Peer;

/// Largest message either way, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Longest host name that is kept, in characters.
const MAX_NAME: usize = 256;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Enrolments {
    desk: DeskHandle,
    authority: Authority,
    /// Whether the aggregator's certificate is the authority's too; otherwise agents are told no authority.
    serves: bool,
    counters: Arc<Counters>,
    limit: Arc<Mutex<Limit>>,
}

impl Enrolments {
    /// At this desk.
    pub fn new(desk: DeskHandle, authority: Authority, serves: bool, counters: Arc<Counters>) -> Self {
        let limit = Arc::new(Mutex::new(Limit::new(Instant::now())));
        Self { desk, authority, serves, counters, limit }
    }

    /// The desk.
    pub fn desk(&self) -> DeskHandle {
        self.desk.clone()
    }

    /// As a gRPC service with its limits.
    pub fn into_server(self) -> EnrolmentServer<Self> {
        EnrolmentServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// An address may only try so often. The real address of a connection: what a client says of itself counts nothing.
    fn admit(&self, address: IpAddr) -> Result<(), Status> {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if limit.take(address, Instant::now()) {
            return Ok(());
        }
        drop(limit);
        Counters::add(&self.counters.limited);
        Err(Status::resource_exhausted("too many enrolments from this address; try again in a minute"))
    }

    fn reply(&self, issued: &Issued) -> Result<Response<v1::EnrolReply>, Status> {
        let certificate =
            unhex(&issued.der).ok_or_else(|| Status::internal("certificate on the book does not read"))?;
        let authorities = self.authority.trusted().iter().filter(|_| self.serves);
        Ok(Response::new(v1::EnrolReply {
            certificate_chain: vec![certificate],
            authorities: authorities.map(|der| der.to_vec()).collect(),
            not_before_unix_s: issued.not_before.timestamp(),
            not_after_unix_s: issued.not_after.timestamp(),
        }))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| u8::try_from(digit(pair[0])? * 16 + digit(*pair.get(1)?)?).ok();
    text.as_bytes().chunks(2).map(pair).collect()
}

fn status(error: DeskError) -> Status {
    let text = ErrorChain(&error).to_string();
    match error {
        DeskError::Refused(Refusal::HasCertificate { .. }) => Status::already_exists(text),
        DeskError::Refused(Refusal::TooMany(_)) => Status::resource_exhausted(text),
        DeskError::Refused(_) => Status::permission_denied(text),
        DeskError::Authority(_) => Status::invalid_argument(text),
        DeskError::State(_) | DeskError::Closed | DeskError::TooManyTokens => {
            tracing::error!(error = text, "enrolment failed");
            Status::unavailable("the aggregator can't write its state; try again")
        }
    }
}

fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| Status::internal("a connection without its facts"))
}

#[tonic::async_trait]
impl Enrolment for Enrolments {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let peer = peer(&request)?;
        self.admit(peer.address.ip())?;
        let request = request.into_inner();
        let agent = Uuid::from_slice(&request.agent_id).ok().filter(|id| !id.is_nil());
        let agent = agent.ok_or_else(|| Status::invalid_argument("agent_id is no id of 16 bytes"))?;
        let key = requested_key(&request.certificate_request).map_err(|error| status(error.into()))?;
        let Some(token) = JoinToken::parse(&request.token) else {
            Counters::add(&self.counters.refused);
            return Err(status(Refusal::Unknown.into()));
        };
        let node = request.node_name.chars().take(MAX_NAME).collect();
        let who = Applicant { agent, key, node, peer: peer.address.to_string() };
        self.reply(&self.desk.enrol(token, who).await.map_err(status)?)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let peer = peer(&request)?;
        self.admit(peer.address.ip())?;
        let certificate = peer.certificate.as_deref();
        let named =
            certificate.and_then(|certificate| Some((certificate.agent?, certificate.serial.clone())));
        let (agent, serial) = named
            .ok_or_else(|| Status::unauthenticated("renewal needs the certificate that is to be renewed"))?;
        let request = request.into_inner();
        let key = requested_key(&request.certificate_request).map_err(|error| status(error.into()))?;
        let who = Applicant { agent, key, node: String::new(), peer: peer.address.to_string() };
        self.reply(&self.desk.renew(serial, who).await.map_err(status)?)
    }
}
