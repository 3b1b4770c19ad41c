//! Subcommands for the administrator on the aggregator's host. They ask the running aggregator over the socket in its
//! state directory, which only the owner of that directory can open: there is one writer of the state, and it is not us.
//! Those for the telemetry store ([`store`]) ask its engine.

use std::path::Path;

use clap::{Arg, ArgMatches, Command, value_parser};
use etcdmon_service::settings::{Millis, ParseSetting as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::Config;
use crate::store::backup::BackupError;

mod store;

/// Name of the socket in the state directory.
pub const SOCKET: &str = "admin.sock";

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody answers.
    #[error("ask the aggregator over {socket}; does it run with this state.dir, and as this user?")]
    Unreachable {
        /// The socket.
        socket: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It answers with a refusal.
    #[error("{0}")]
    Refused(String),
    /// The store can't be copied, restored or looked at.
    #[error(transparent)]
    Store(#[from] BackupError),
}

/// The subcommands.
pub fn commands() -> [Command; 3] {
    let id =
        |name: &'static str, help: &'static str| Arg::new(name).value_name("ID").required(true).help(help);
    let create =
        Command::new("create")
            .about("Make a join token and print it, this once")
            .arg(
                Arg::new("ttl")
                    .long("ttl")
                    .value_name("TIME")
                    .default_value("1h")
                    .value_parser(|text: &str| {
                        Millis::parse(text).map_err(|expected| format!("not {expected}"))
                    })
                    .help("How long it is good"),
            )
            .arg(
                Arg::new("uses")
                    .long("uses")
                    .value_name("N")
                    .default_value("1")
                    .value_parser(value_parser!(u32))
                    .help("For how many agents"),
            )
            .arg(
                Arg::new("scope")
                    .long("scope")
                    .value_name("LABEL")
                    .help("Label of the agents that enrol with it"),
            )
            .arg(Arg::new("agent").long("agent").value_name("ID").value_parser(value_parser!(Uuid)).help(
                "The only agent that may use it; it may then replace a certificate that is still good",
            ));
    let token = Command::new("token")
        .about("Join tokens of agents")
        .subcommand_required(true)
        .subcommand(create)
        .subcommand(Command::new("list").about("Show join tokens, without their secrets"))
        .subcommand(Command::new("revoke").about("Revoke a join token").arg(id("id", "Id of the token")));
    let revoke = Command::new("revoke")
        .about("End an agent's streams and certificates; with a new join token it may come back")
        .arg(id("id", "Id of the agent").value_parser(value_parser!(Uuid)));
    [
        token,
        Command::new("agent").about("Agents").subcommand_required(true).subcommand(revoke),
        store::command(),
    ]
}

/// Runs a subcommand. `None` when it is none of ours.
pub async fn run(config: &Config, flags: &ArgMatches) -> Option<Result<String, AdminError>> {
    let admin = Admin::new(&config.state_dir);
    Some(match flags.subcommand()? {
        ("token", flags) => match flags.subcommand()? {
            ("create", flags) => admin.create(flags).await,
            ("list", _) => admin.ask("GET", "/api/v1/enrolment/tokens", None).await.map(pretty),
            ("revoke", flags) => {
                let id = flags.get_one::<String>("id")?;
                admin.ask("DELETE", &format!("/api/v1/enrolment/tokens/{id}"), None).await.map(pretty)
            }
            _ => return None,
        },
        ("agent", flags) => {
            let id = flags.subcommand_matches("revoke")?.get_one::<Uuid>("id")?;
            admin.ask("POST", &format!("/api/v1/agents/{id}/revoke"), None).await.map(pretty)
        }
        ("store", flags) => store::run(config, flags).await?,
        _ => return None,
    })
}

fn pretty(answer: Value) -> String {
    serde_json::to_string_pretty(&answer).unwrap_or_else(|_| answer.to_string())
}

struct Admin {
    socket: std::path::PathBuf,
}

impl Admin {
    fn new(state_dir: &Path) -> Self {
        Self { socket: state_dir.join(SOCKET) }
    }

    async fn create(&self, flags: &ArgMatches) -> Result<String, AdminError> {
        let seconds = flags.get_one::<Millis>("ttl").map_or(3_600, |ttl| ttl.0.as_secs());
        let request = json!({
            "ttl_seconds": seconds,
            "uses": flags.get_one::<u32>("uses"),
            "scope": flags.get_one::<String>("scope").cloned().unwrap_or_default(),
            "agent": flags.get_one::<Uuid>("agent"),
        });
        let made = self.ask("POST", "/api/v1/enrolment/tokens", Some(request)).await?;
        Ok(made["token"].as_str().unwrap_or_default().to_owned())
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, AdminError> {
        let unreachable =
            |source| AdminError::Unreachable { socket: self.socket.display().to_string(), source };
        // No TLS on a socket: a machine without any authority's certificate will do.
        let client = reqwest::Client::builder().unix_socket(self.socket.as_path()).tls_certs_only([]);
        let client = client.build().map_err(unreachable)?;
        let method = method.parse().unwrap_or(reqwest::Method::GET);
        let mut request = client.request(method, format!("http://localhost{path}"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let answer: Value = response.json().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(answer);
        }
        Err(AdminError::Refused(answer["detail"].as_str().unwrap_or(status.as_str()).to_owned()))
    }
}
