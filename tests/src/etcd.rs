//! Real etcd clusters: any version and size, each member with its own disk and cgroups.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::disk::{self, Disk, Medium};
use crate::metrics::{Metrics, scrape};
use crate::place::{Place, free_port};
use crate::process::Process;
use crate::slow::Delays;
use crate::{tools, wait};

mod rpc;
mod tls;

pub use rpc::Client;
pub use tls::Certificates;

/// Limit for a cluster to elect its first leader, on a machine that is busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(40);

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    members: usize,
    version: Option<String>,
    media: Vec<Medium>,
    disk_size: u64,
    slow_members: Vec<usize>,
    arguments: Vec<String>,
    tls: bool,
    cgroups: bool,
}

impl Builder {
    /// Number of members; 3 by default.
    pub fn members(mut self, count: usize) -> Self {
        self.members = count;
        self
    }

    /// Version of etcd, one of those that are installed; [`tools::default_version`] by default.
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
        self
    }

    /// TLS with client certificates on all URLs.
    pub fn tls(mut self, on: bool) -> Self {
        self.tls = on;
        self
    }

    /// What the data directories are on; without root always a plain directory.
    pub fn medium(self, medium: Medium) -> Self {
        self.media(&[medium])
    }

    /// The same for each member by itself; the last one serves those beyond.
    pub fn media(mut self, media: &[Medium]) -> Self {
        self.media = media.to_vec();
        self
    }

    /// Size of each member's disk in bytes; [`disk::SIZE`] by default.
    pub fn disk_size(mut self, bytes: u64) -> Self {
        self.disk_size = bytes;
        self
    }

    /// More flags of etcd.
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// This member's disk is over FUSE, so that it can be slowed while the cluster runs.
    pub fn slow_disk(mut self, member: usize) -> Self {
        self.slow_members.push(member);
        self
    }

    /// Starts the members and waits for a leader that all of them know.
    ///
    /// # Errors
    /// When a member does not start; the message has the end of its log.
    pub async fn start(self, place: &Place) -> Result<Cluster> {
        let certificates = match self.tls {
            true => Some(Certificates::new(&place.directory(&format!("{}-tls", self.name))?)?),
            false => None,
        };
        let version = self.version.clone().map_or_else(tools::default_version, Ok)?;
        let mut members = Vec::new();
        for index in 0..self.members {
            members.push(self.prepare(place, index, &version)?);
        }
        let token = format!("{}-{}-{:08x}", place.name(), self.name, rand::random::<u32>());
        let scheme = if self.tls { "https" } else { "http" };
        let peers: Vec<String> = members
            .iter()
            .map(|member| format!("{}={scheme}://127.0.0.1:{}", member.name, member.peer_port))
            .collect();
        for member in &mut members {
            member.arguments = arguments(member, &peers.join(","), &token, certificates.as_ref());
            member.arguments.extend(self.arguments.iter().cloned());
            member.client_url = format!("{scheme}://127.0.0.1:{}", member.client_port);
            member.start()?;
        }
        let http = http_client(certificates.as_ref())?;
        let mut cluster = Cluster { members, certificates, http, version };
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    fn prepare(&self, place: &Place, index: usize, version: &str) -> Result<Member> {
        let name = format!("{}-{index}", self.name);
        let directory = place.directory(&name)?;
        let wanted = self.media.get(index).or(self.media.last()).copied().unwrap_or(Medium::Ext4);
        let medium = if tools::is_root() { wanted } else { Medium::Directory };
        let slow = tools::is_root() && self.slow_members.contains(&index);
        Ok(Member {
            process: None,
            binary: tools::etcd(version)?,
            arguments: Vec::new(),
            client_port: free_port()?,
            peer_port: free_port()?,
            client_url: String::new(),
            log: place.path().join(format!("etcd-{name}.log")),
            disk: Disk::with_size(&directory, medium, slow, self.disk_size)?,
            cgroup: match self.cgroups && tools::is_root() {
                true => Some(Cgroup::new(&format!("{}-{name}", place.name()))?),
                false => None,
            },
            name,
        })
    }
}

/// One etcd. The process comes first, so that it ends before its disk and groups go.
#[derive(Debug)]
pub struct Member {
    process: Option<Process>,
    /// Its name in the cluster.
    pub name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    client_port: u16,
    peer_port: u16,
    client_url: String,
    log: PathBuf,
    disk: Disk,
    cgroup: Option<Cgroup>,
}

impl Member {
    /// Starts it, again on the same data if it ran before.
    ///
    /// # Errors
    /// When the program can't be started.
    pub fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments);
        let groups = self.cgroup.as_ref().map(Cgroup::procs).unwrap_or_default();
        self.process = Some(Process::start(&format!("etcd {}", self.name), command, &self.log, &groups)?);
        Ok(())
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was killed and not started again.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("etcd {} is not running", self.name))
    }

    /// Process id.
    ///
    /// # Errors
    /// When it was killed and not started again.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process()?.pid())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Where clients reach it.
    pub fn client_url(&self) -> &str {
        &self.client_url
    }

    /// Its `--data-dir`.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.disk)
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// kill -9, then its disk is unmounted and mounted again, and it is started on what that has.
    ///
    /// # Errors
    /// When the disk can't be mounted any more, or the program not be started.
    pub fn restart_on_its_disk(&mut self) -> Result<()> {
        self.kill();
        self.disk.remount()?;
        self.start()
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Delays of its disk.
    ///
    /// # Errors
    /// When it was not made with [`Builder::slow_disk`].
    pub fn delays(&self) -> Result<Arc<Delays>> {
        self.disk.delays().with_context(|| format!("the disk of etcd {} can't be slowed", self.name))
    }

    /// Its control groups.
    ///
    /// # Errors
    /// When it has none.
    pub fn cgroup(&self) -> Result<&Cgroup> {
        self.cgroup.as_ref().with_context(|| format!("etcd {} has no cgroup of its own", self.name))
    }
}

/// A running cluster. Dropping it ends the members and removes their disks.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of their names.
    pub members: Vec<Member>,
    certificates: Option<Certificates>,
    http: reqwest::Client,
    /// Version of etcd.
    pub version: String,
}

impl Cluster {
    /// Three members of the default version on ext4, without TLS. The name begins the members' names and must be
    /// unique in its place.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            members: 3,
            version: None,
            media: vec![Medium::Ext4],
            disk_size: disk::SIZE,
            slow_members: Vec::new(),
            arguments: Vec::new(),
            tls: false,
            cgroups: true,
        }
    }

    /// Client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_url.clone()).collect()
    }

    /// Certificates, if it has TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// A client that spreads its calls over all members.
    ///
    /// # Errors
    /// When the certificates can't be read.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.endpoints(), self.certificates.as_ref())
    }

    /// A client of one member.
    ///
    /// # Errors
    /// When the certificates can't be read.
    pub fn client_of(&self, member: usize) -> Result<Client> {
        Client::new(&[self.members[member].client_url.clone()], self.certificates.as_ref())
    }

    /// Metrics of a member, past every part of the product.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, member: usize) -> Result<Metrics> {
        scrape(&self.http, &format!("{}/metrics", self.members[member].client_url)).await
    }

    /// The index of the member that says it leads.
    ///
    /// # Errors
    /// When none does within ten seconds.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("a leader", Duration::from_secs(10), async || {
            for (index, member) in self.members.iter().enumerate() {
                if member.process.is_none() {
                    continue;
                }
                let metrics = self.metrics(index).await?;
                if metrics.value("etcd_server_is_leader")? == 1.0 {
                    return Ok(Some(index));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Makes a member the leader, so that a fault hits the member that is meant.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn move_leader(&self, to: usize) -> Result<()> {
        let from = self.leader().await?;
        if from == to {
            return Ok(());
        }
        let target = self.member_id(to).await?;
        self.client_of(from)?.move_leader(target).await?;
        wait::until("the new leader", Duration::from_secs(10), async || {
            Ok((self.leader().await? == to).then_some(()))
        })
        .await
    }

    /// The id of a member, as etcd tells it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn member_id(&self, member: usize) -> Result<u64> {
        Ok(self.client_of(member)?.ids().await?.1)
    }

    /// The id of the cluster, as its first member tells it.
    ///
    /// # Errors
    /// When that does not answer.
    pub async fn id(&self) -> Result<u64> {
        Ok(self.client_of(0)?.ids().await?.0)
    }

    /// Waits until every running member knows a leader.
    ///
    /// # Errors
    /// When a member ended, or no leader is elected in time.
    pub async fn wait_ready(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].process.is_none() {
                continue;
            }
            let url = format!("{}/metrics", self.members[index].client_url);
            let (http, member) = (&self.http, &mut self.members[index]);
            let process = member.process.as_mut().context("running, as was just checked")?;
            let log = member.log.clone();
            let what = format!("etcd {} to know a leader", member.name);
            let ready = wait::until(&what, START_LIMIT, async || {
                Ok((scrape(http, &url).await?.value("etcd_server_has_leader")? == 1.0).then_some(()))
            });
            let outcome = tokio::select! {
                outcome = ready => outcome,
                ended = watch(process) => ended,
            };
            outcome.with_context(|| crate::place::tail(&log, 15))?;
        }
        Ok(())
    }
}

/// Returns, with an error, when the process ends.
async fn watch(process: &mut Process) -> Result<()> {
    loop {
        process.check_running()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn data_dir(disk: &Disk) -> PathBuf {
    disk.path().join("etcd")
}

fn arguments(member: &Member, peers: &str, token: &str, certificates: Option<&Certificates>) -> Vec<String> {
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{}", member.client_port);
    let peer = format!("{scheme}://127.0.0.1:{}", member.peer_port);
    let mut arguments = vec![
        format!("--name={}", member.name),
        format!("--data-dir={}", data_dir(&member.disk).display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={peers}"),
        format!("--initial-cluster-token={token}"),
        "--initial-cluster-state=new".to_owned(),
        "--logger=zap".to_owned(),
        "--log-outputs=stderr".to_owned(),
    ];
    if let Some(files) = certificates {
        for prefix in ["", "peer-"] {
            arguments.push(format!("--{prefix}cert-file={}", files.server.display()));
            arguments.push(format!("--{prefix}key-file={}", files.server_key.display()));
            arguments.push(format!("--{prefix}trusted-ca-file={}", files.authority.display()));
            arguments.push(format!("--{prefix}client-cert-auth=true"));
        }
    }
    arguments
}

fn http_client(certificates: Option<&Certificates>) -> Result<reqwest::Client> {
    // Another call may have installed it already; all install the same.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = reqwest::Client::builder().no_proxy();
    if let Some(files) = certificates {
        let mut identity = read(&files.client)?;
        identity.extend(read(&files.client_key)?);
        builder = builder
            .tls_certs_only([reqwest::Certificate::from_pem(&read(&files.authority)?)?])
            .identity(reqwest::Identity::from_pem(&identity)?);
    }
    builder.build().context("make an HTTP client")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}
