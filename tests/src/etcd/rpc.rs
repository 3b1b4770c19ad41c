//! The few etcd calls the lab makes, over tonic with messages declared here: no protobuf compiler is needed, and no
//! code is shared with the product.
//!
//! Field numbers are those of etcd's `rpc.proto`, the same from 3.4 to 3.7.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::Certificates;

/// A call that takes longer has failed.
const CALL_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    cluster_id: u64,
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Every response begins with a header; the rest is skipped.
#[derive(Clone, PartialEq, Message)]
struct AnyResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct MoveLeaderRequest {
    #[prost(uint64, tag = "1")]
    target: u64,
}

/// A client of some members. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects when it is first used. Calls go to any member that can be reached.
    ///
    /// # Errors
    /// When an URL or a certificate is bad.
    pub fn new(urls: &[String], certificates: Option<&Certificates>) -> Result<Self> {
        let endpoints = urls.iter().map(|url| endpoint(url, certificates)).collect::<Result<Vec<_>>>()?;
        let channel = match <[Endpoint; 1]>::try_from(endpoints) {
            Ok([only]) => only.connect_lazy(),
            Err(endpoints) => Channel::balance_list(endpoints.into_iter()),
        };
        Ok(Self { channel })
    }

    /// Puts a key.
    ///
    /// # Errors
    /// What etcd answers, or that nobody does.
    pub async fn put(&mut self, key: String, value: Vec<u8>) -> Result<()> {
        let request = PutRequest { key: key.into_bytes(), value };
        self.call("/etcdserverpb.KV/Put", request).await.map(drop)
    }

    /// The ids of the cluster and of the member that answers.
    ///
    /// # Errors
    /// What etcd answers, or that nobody does.
    pub async fn ids(&mut self) -> Result<(u64, u64)> {
        let response = self.call("/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
        let header = response.header.context("a status without a header")?;
        Ok((header.cluster_id, header.member_id))
    }

    /// Hands the leadership to a member. Only the leader takes this call.
    ///
    /// # Errors
    /// What etcd answers, or that nobody does.
    pub async fn move_leader(&mut self, target: u64) -> Result<()> {
        self.call("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target }).await.map(drop)
    }

    async fn call(&mut self, path: &'static str, request: impl Message + 'static) -> Result<AnyResponse> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.context(path)?;
        let codec = tonic_prost::ProstCodec::default();
        let request = tonic::Request::new(request);
        let response = grpc.unary(request, PathAndQuery::from_static(path), codec).await.context(path)?;
        Ok(response.into_inner())
    }
}

fn endpoint(url: &str, certificates: Option<&Certificates>) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(CALL_LIMIT).timeout(CALL_LIMIT);
    let Some(files) = certificates else { return Ok(endpoint) };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&files.authority)?))
        .identity(Identity::from_pem(read(&files.client)?, read(&files.client_key)?));
    endpoint.tls_config(tls).context("TLS settings")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}
