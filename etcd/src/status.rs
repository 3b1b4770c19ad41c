//! `Maintenance.Status` and `Cluster.MemberList` of one member.
//!
//! Nothing here goes through raft: Status answers from the member's own memory, and MemberList is asked with
//! `linearizable = false` (its default; 3.4 has no such field and always answers locally). `Maintenance.Alarm`, even to read,
//! costs a raft entry and a WAL sync on every member, so alarms are taken from `Status.errors`.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcdmon_proto::v1::PeerMember;
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::USER_AGENT;
use crate::endpoint::{self, Endpoint, EndpointError};
use crate::tls::Access;

/// Time for one call, connecting included, unless said otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(900);

/// Largest answer. A member list of hundreds of members is far below.
const ANSWER_LIMIT: usize = 1 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Certificates that don't read.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// No connection.
    #[error("connect for {method}")]
    Connect {
        /// The call.
        method: &'static str,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The member answered with an error.
    #[error("{method}: {}: {}", .status.code(), .status.message())]
    Call {
        /// The call.
        method: &'static str,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// The member has authentication on, and does not answer this to whoever asks without a name or with the wrong one.
    #[error(
        "{method}: etcd has authentication on and refuses ({message}): it answers a client certificate whose common name is a \
         user with the role root"
    )]
    NotPermitted {
        /// The call.
        method: &'static str,
        /// In etcd's words.
        message: String,
    },
    /// No answer in time.
    #[error(
        "{method} did not answer within {} ms{}", .after.as_millis(),
        if *.reached { ", although the connection was accepted" } else { "" }
    )]
    Timeout {
        /// The call.
        method: &'static str,
        /// How long it was waited for.
        after: Duration,
        /// A new connection was accepted meanwhile, so the network is not to blame.
        reached: bool,
    },
}

/// Header of every answer of etcd.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseHeader {
    /// Cluster id.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Id of the member that answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// Its revision.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// Its term.
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}

/// Answer of `Maintenance.Status`; fields that a version lacks are zero.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Version of etcd.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Size of the backend file.
    #[prost(int64, tag = "3")]
    pub db_size: i64,
    /// Member id of the leader; 0 = none.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    /// Committed index.
    #[prost(uint64, tag = "5")]
    pub raft_index: u64,
    /// Term.
    #[prost(uint64, tag = "6")]
    pub raft_term: u64,
    /// Applied index.
    #[prost(uint64, tag = "7")]
    pub raft_applied_index: u64,
    /// Alarms, and `etcdserver: no leader`.
    #[prost(string, repeated, tag = "8")]
    pub errors: Vec<String>,
    /// Bytes of the backend file in use.
    #[prost(int64, tag = "9")]
    pub db_size_in_use: i64,
    /// Whether it is a learner.
    #[prost(bool, tag = "10")]
    pub is_learner: bool,
    /// Quota, from 3.6 on.
    #[prost(int64, tag = "12")]
    pub db_size_quota: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct MemberList {
    #[prost(message, repeated, tag = "2")]
    members: Vec<EtcdMember>,
}

#[derive(Clone, PartialEq, Message)]
struct EtcdMember {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    is_learner: bool,
}

/// Without a user etcd calls the argument invalid (`api/v3rpc/rpctypes/error.go`, `ErrGRPCUserEmpty`).
fn refused(method: &'static str, status: tonic::Status) -> StatusError {
    let nameless =
        status.code() == tonic::Code::InvalidArgument && status.message().contains("user name is empty");
    if nameless || matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated) {
        return StatusError::NotPermitted { method, message: status.message().to_owned() };
    }
    StatusError::Call { method, status: Box::new(status) }
}

/// Asks one member.
#[derive(Debug)]
pub struct StatusClient {
    endpoint: Endpoint,
    access: Access,
    timeout: Duration,
    attempt: usize,
    reached: bool,
    channel: Option<Channel>,
}

impl StatusClient {
    /// For an endpoint, with what it is talked to.
    pub const fn new(endpoint: Endpoint, access: Access) -> Self {
        Self { endpoint, access, timeout: CALL_TIMEOUT, attempt: 0, reached: false, channel: None }
    }

    /// With another time for one call.
    pub const fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The member's own view of itself.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn status(&mut self) -> Result<Status, StatusError> {
        self.call("Maintenance.Status", "/etcdserverpb.Maintenance/Status").await
    }

    /// The cluster's members as this member knows them.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn members(&mut self) -> Result<Vec<PeerMember>, StatusError> {
        let list: MemberList = self.call("Cluster.MemberList", "/etcdserverpb.Cluster/MemberList").await?;
        let members = list.members.into_iter().map(|member| PeerMember {
            member_id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        });
        Ok(members.collect())
    }

    async fn call<A>(&mut self, method: &'static str, path: &'static str) -> Result<A, StatusError>
    where
        A: Message + Default + 'static,
    {
        self.reached = false;
        let attempt = tokio::time::timeout(self.timeout, self.try_call(method, path)).await;
        let (after, reached) = (self.timeout, self.reached);
        let outcome = attempt.unwrap_or(Err(StatusError::Timeout { method, after, reached }));
        // An answer, even a refusal, shows that the connection is good.
        let keep = match &outcome {
            Ok(_) => true,
            Err(StatusError::Call { status, .. }) => status.code() == tonic::Code::Unimplemented,
            Err(_) => false,
        };
        if !keep {
            self.channel = None;
            self.attempt += 1;
        }
        outcome
    }

    async fn try_call<A>(&mut self, method: &'static str, path: &'static str) -> Result<A, StatusError>
    where
        A: Message + Default + 'static,
    {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.connect(method).await?,
        };
        let mut client = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT);
        client.ready().await.map_err(|source| StatusError::Connect { method, source })?;
        let codec = ProstCodec::<Empty, A>::default();
        let answer = client
            .unary(tonic::Request::new(Empty {}), PathAndQuery::from_static(path), codec)
            .await
            .map_err(|status| refused(method, status))?;
        self.channel = Some(channel);
        Ok(answer.into_inner())
    }

    /// Connects here and hands tonic the finished stream: its own errors would hide the cause, and it would connect again
    /// on its own.
    async fn connect(&mut self, method: &'static str) -> Result<Channel, StatusError> {
        let tls = self.access.for_attempt(&self.endpoint, self.attempt, b"h2")?;
        let reached = &mut self.reached;
        let stream = endpoint::connect(&self.endpoint, tls, || *reached = true).await?;
        let stream = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
        // TLS is done: the URI stays http, or tonic would ask for settings of its own.
        let uri = format!("http://{}", self.endpoint.authority());
        let builder = Channel::from_shared(uri)
            .map_err(|_invalid| EndpointError::NoUrl(vec![self.endpoint.to_string()]))?
            .user_agent(USER_AGENT)
            .map_err(|source| StatusError::Connect { method, source })?;
        let connector = tower::service_fn(move |_uri| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        });
        builder
            .connect_with_connector(connector)
            .await
            .map_err(|source| StatusError::Connect { method, source })
    }
}
