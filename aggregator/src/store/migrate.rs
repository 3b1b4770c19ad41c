//! The schema's numbered steps. Each is applied once, in order, and never changed once released: a test keeps their
//! checksums, and a store whose steps differ from this program's is not touched.
//!
//! A step is a file of statements that may be repeated (`IF NOT EXISTS` …), because a crash may fall between the
//! statement and its entry in `schema_migrations`.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::client::{Client, ClientError};

/// A step of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Number, rising by one.
    pub version: u32,
    /// File name without `.sql`.
    pub name: &'static str,
    /// Statements, each ending with `;`.
    pub sql: &'static str,
}

/// All steps.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "0001_raw", sql: include_str!("schema/0001_raw.sql") },
    Migration { version: 2, name: "0002_autopsies", sql: include_str!("schema/0002_autopsies.sql") },
    Migration { version: 3, name: "0003_rollups", sql: include_str!("schema/0003_rollups.sql") },
    Migration { version: 4, name: "0004_comments", sql: include_str!("schema/0004_comments.sql") },
    Migration { version: 5, name: "0005_views", sql: include_str!("schema/0005_views.sql") },
    Migration { version: 6, name: "0006_codecs", sql: include_str!("schema/0006_codecs.sql") },
];

/// Why the schema is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// ClickHouse is not there.
    #[error("telemetry store is not available")]
    Unavailable(#[from] ClientError),
    /// ClickHouse refused or lost a statement.
    #[error("migration {name} failed")]
    Statement {
        /// Step, or what was done.
        name: &'static str,
        /// What ClickHouse said.
        #[source]
        source: clickhouse::error::Error,
    },
    /// The store has a step that differs from this program's.
    #[error("store has another migration {version} than this program: it was made by another build")]
    Changed {
        /// Number of the step.
        version: u32,
    },
    /// The store has steps that this program does not know.
    #[error("store has migration {found}, this program knows {known}: upgrade the aggregator")]
    Newer {
        /// Highest step in the store.
        found: u32,
        /// Highest step known.
        known: u32,
    },
}

#[derive(clickhouse::Row, Deserialize)]
struct Applied {
    version: u32,
    checksum: String,
}

impl Migration {
    /// SHA-256 of the file, in hex.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn statements(&self) -> impl Iterator<Item = &'static str> {
        self.sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
    }
}

/// Creates the database and applies the steps that are missing. Doing it again changes nothing.
///
/// # Errors
/// When ClickHouse is away or refuses, or the store belongs to another build.
pub async fn migrate(client: &Client) -> Result<(), MigrateError> {
    let bare = client.connect_without_database()?;
    let name = client.database().replace('\\', "\\\\").replace('`', "\\`");
    run(&bare, "create database", &format!("CREATE DATABASE IF NOT EXISTS `{name}`")).await?;
    let client = client.connect()?;
    run(
        &client,
        "create schema_migrations",
        "CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, name String, checksum String, \
         applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = MergeTree ORDER BY version \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
    )
    .await?;
    let applied: Vec<Applied> = client
        .query_raw("SELECT DISTINCT version, checksum FROM schema_migrations ORDER BY version")
        .fetch_all()
        .await
        .map_err(|source| MigrateError::Statement { name: "read schema_migrations", source })?;
    check(&applied)?;
    for migration in MIGRATIONS {
        if applied.iter().any(|applied| applied.version == migration.version) {
            continue;
        }
        for statement in migration.statements() {
            run(&client, migration.name, statement).await?;
        }
        record(&client, migration).await?;
        tracing::info!(migration = migration.name, "schema migrated");
    }
    Ok(())
}

fn check(applied: &[Applied]) -> Result<(), MigrateError> {
    let known = MIGRATIONS.last().map_or(0, |migration| migration.version);
    for applied in applied {
        match MIGRATIONS.iter().find(|migration| migration.version == applied.version) {
            None => return Err(MigrateError::Newer { found: applied.version, known }),
            Some(migration) if migration.checksum() != applied.checksum => {
                return Err(MigrateError::Changed { version: applied.version });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn run(client: &clickhouse::Client, name: &'static str, sql: &str) -> Result<(), MigrateError> {
    client.query_raw(sql).execute().await.map_err(|source| MigrateError::Statement { name, source })
}

async fn record(client: &clickhouse::Client, migration: &Migration) -> Result<(), MigrateError> {
    client
        .query_raw(
            "INSERT INTO schema_migrations (version, name, checksum) \
             SELECT {version:UInt32}, {name:String}, {checksum:String}",
        )
        .param("version", migration.version)
        .param("name", migration.name)
        .param("checksum", migration.checksum())
        .execute()
        .await
        .map_err(|source| MigrateError::Statement { name: migration.name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_migrations_keep_their_checksums() {
        let found: String = MIGRATIONS
            .iter()
            .map(|migration| format!("{} {}\n", migration.checksum(), migration.name))
            .collect();
        assert_eq!(
            found,
            include_str!("schema/checksums.txt"),
            "a released migration must not change: add a new one. Only a step that was never released may be renewed \
             in schema/checksums.txt"
        );
    }

    #[test]
    fn migrations_are_numbered_without_gaps() {
        for (number, migration) in (1..).zip(MIGRATIONS) {
            assert_eq!(migration.version, number);
            assert!(migration.name.starts_with(&format!("{number:04}_")), "{}", migration.name);
        }
    }

    #[test]
    fn a_foreign_or_newer_store_is_not_touched() {
        let applied = |version, checksum: &str| [Applied { version, checksum: checksum.to_owned() }];
        assert!(check(&applied(1, &MIGRATIONS[0].checksum())).is_ok());
        assert!(matches!(check(&applied(1, "0")), Err(MigrateError::Changed { version: 1 })));
        assert!(matches!(check(&applied(99, "0")), Err(MigrateError::Newer { found: 99, .. })));
    }

    #[test]
    fn the_schema_has_the_columns_that_are_written() {
        let sql = MIGRATIONS.iter().map(|migration| migration.sql).collect::<String>();
        for table in super::super::table::Table::ALL {
            let begin = sql.find(&format!("EXISTS {} (", table.name())).expect("table in the schema");
            let definition = &sql[begin..begin + sql[begin..].find(") ENGINE").unwrap()];
            let columns: Vec<String> = definition
                .lines()
                .skip(1)
                .map(|line| line.split(" CODEC").next().unwrap().trim().trim_end_matches(','))
                .filter(|line| !line.is_empty())
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            let written: Vec<String> =
                table.columns().iter().map(|(name, kind)| format!("{name} {}", kind.sql())).collect();
            assert_eq!(columns, written, "{}", table.name());
        }
    }
}
