//! `etcd-monitor-aggregator`: settings → logging → build → run → exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use etcdmon_aggregator::config::{self, Config, Effective, SCHEMA, TlsMode};
use etcdmon_aggregator::{Aggregator, admin, engine};
use etcdmon_service::logging::{self, ErrorChain};
use etcdmon_service::{memory, process, shutdown};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code for settings that can't be used, as in sysexits.h.
const EX_CONFIG: u8 = 78;

fn command() -> Command {
    let about = "Takes in what agents of etcd-monitor see, stores it, answers questions and sends alerts";
    SCHEMA
        .add_flags(Command::new("etcd-monitor-aggregator").about(about).version(env!("CARGO_PKG_VERSION")))
        .subcommand(Command::new("serve").about("Run the aggregator; the same as no subcommand"))
        .subcommand(
            Command::new("check-config").about("Check all settings, show each with its source, and exit"),
        )
        .subcommands(admin::commands())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let rest: Vec<OsString> = arguments.collect();
    // The child process with the engine library; started by the aggregator itself, so not in the help text.
    if rest.first().is_some_and(|first| first == "engine") {
        return run_engine(rest.into_iter().skip(1));
    }
    let flags = command().get_matches_from(program.into_iter().chain(rest));
    let (config, effective) = match config::load(&flags, std::env::vars()) {
        Ok(loaded) => loaded,
        Err(faults) => {
            eprintln!("etcd-monitor-aggregator: {faults}");
            return ExitCode::from(EX_CONFIG);
        }
    };
    if flags.subcommand_name() == Some("check-config") {
        for (key, value, source) in effective {
            println!("{key} = {value:?} ({source})");
        }
        return ExitCode::SUCCESS;
    }
    if matches!(flags.subcommand_name(), Some("token" | "agent" | "store")) {
        return administer(&config, &flags);
    }
    serve(config, flags, effective)
}

fn administer(config: &Config, flags: &ArgMatches) -> ExitCode {
    process::install_tls_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map(|runtime| runtime.block_on(admin::run(config, flags)));
    match outcome {
        Ok(Some(Ok(text))) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Some(Err(error))) => eprintln!("etcd-monitor-aggregator: {}", ErrorChain(&error)),
        Ok(None) => eprintln!("etcd-monitor-aggregator: no such subcommand; see --help"),
        Err(error) => eprintln!("etcd-monitor-aggregator: start runtime: {error}"),
    }
    ExitCode::FAILURE
}

fn serve(config: Config, flags: ArgMatches, effective: Effective) -> ExitCode {
    if let Err(error) = logging::init(config.log_format, &config.log_filter) {
        eprintln!("etcd-monitor-aggregator: settings: log.filter: {error}");
        return ExitCode::from(EX_CONFIG);
    }
    process::install_tls_provider();
    process::count_panics();
    memory::bound();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config, flags, effective)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %ErrorChain(error.as_ref()), "the aggregator ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, flags: ArgMatches, effective: Effective) -> anyhow::Result<()> {
    let end = shutdown::token()?;
    tokio::spawn(memory::give_back_regularly(end.clone()));
    tokio::spawn(check_on_hangup(signal(SignalKind::hangup())?, flags, effective));
    if !config.ingest.ip().is_loopback() && config.ingest_tls.mode != TlsMode::Mutual {
        tracing::warn!(
            address = %config.ingest, mode = ?config.ingest_tls.mode,
            "agents are taken in from other hosts without authentication; see listen.ingest-tls"
        );
    }
    if !config.api.ip().is_loopback() && config.api_tls.is_none() {
        tracing::warn!(address = %config.api, "the API's token travels in clear; see listen.api-cert-file");
    }
    if config.clickhouse_port.as_ref().is_some_and(|port| !port.address.ip().is_loopback())
        && config.api_tls.is_none()
    {
        tracing::warn!("the password of listen.clickhouse travels in clear; see listen.api-cert-file");
    }
    Aggregator::build(config).await?.run(end).await?;
    Ok(())
}

/// SIGHUP: reads the settings again and says what a restart would change. A faulty file changes nothing.
async fn check_on_hangup(mut hangups: Signal, flags: ArgMatches, current: Effective) {
    while hangups.recv().await.is_some() {
        match config::load(&flags, std::env::vars()) {
            Err(faults) => tracing::error!(%faults, "settings are faulty, the old ones stay in force"),
            Ok((_, new)) => {
                let pairs = new.iter().zip(&current);
                let differ = pairs.filter(|(new, old)| new.1 != old.1);
                let changed: Vec<&str> = differ.map(|(new, _)| new.0.as_str()).collect();
                if changed.is_empty() {
                    tracing::info!("settings unchanged");
                } else {
                    tracing::warn!(?changed, "settings changed: restart the aggregator to apply them");
                }
            }
        }
    }
}

fn run_engine(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let outcome = match engine::child::parse_arguments(arguments) {
        Ok(arguments) => engine::child::run(&arguments).map_err(|error| ErrorChain(&error).to_string()),
        Err(fault) => Err(fault),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::FAILURE
        }
    }
}
