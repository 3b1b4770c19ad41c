//! Whether the user for SQL at a ClickHouse server is one that may only read: its grants and its profile are the fence
//! there, so a user without that fence is not used.

/// What its grants are asked with.
pub const GRANTS: &str = "SHOW GRANTS";

/// What its profile is asked with: name and value of the settings that matter.
pub const SETTINGS: &str = "SELECT name, value FROM system.settings WHERE name IN ('readonly', 'max_execution_time', \
    'max_memory_usage', 'max_result_rows', 'max_result_bytes') ORDER BY name";

/// Limits that the profile must have: there is nobody else to set them.
const LIMITS: [&str; 4] = ["max_execution_time", "max_memory_usage", "max_result_rows", "max_result_bytes"];

/// Rights that let somebody do no more than read the store.
const HARMLESS: [&str; 6] = ["SELECT", "SHOW", "SHOW DATABASES", "SHOW TABLES", "SHOW COLUMNS", "USAGE"];

/// Why a user is not used for SQL.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has a right that is more than reading.
    #[error(
        "the user of clickhouse.sql-user has more rights than reading ({0:?}): grant it nothing but SELECT on the \
         telemetry database"
    )]
    Rights(String),
    /// Its profile lets it write or change settings.
    #[error("the profile of the user of clickhouse.sql-user must have readonly = 1, it has {0:?}")]
    Writable(String),
    /// Its profile does not bound statements.
    #[error(
        "the profile of the user of clickhouse.sql-user must set {0}: nothing else bounds its statements"
    )]
    Unbounded(&'static str),
}

/// Judges the server's answers to [`GRANTS`] and [`SETTINGS`].
///
/// # Errors
/// When the user may more than read, or without bounds.
pub fn judge(grants: &str, settings: &str) -> Result<(), Unfit> {
    for grant in grants.lines().filter(|line| !line.trim().is_empty()) {
        if !is_harmless(grant) {
            return Err(Unfit::Rights(grant.to_owned()));
        }
    }
    let value = |name: &str| {
        let found = settings.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        found.unwrap_or_default().trim()
    };
    if value("readonly") != "1" {
        return Err(Unfit::Writable(value("readonly").to_owned()));
    }
    match LIMITS.iter().find(|name| matches!(value(name), "" | "0")) {
        Some(name) => Err(Unfit::Unbounded(name)),
        None => Ok(()),
    }
}

/// A line of `SHOW GRANTS` that grants no more than reading. What is taken away harms nobody; a role hides its rights.
fn is_harmless(line: &str) -> bool {
    if line.starts_with("REVOKE ") {
        return true;
    }
    let Some((rights, _)) = line.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON ")) else {
        return false;
    };
    if line.ends_with("WITH GRANT OPTION") {
        return false;
    }
    let mut depth = 0;
    let mut names = String::new();
    for letter in rights.chars() {
        // Columns stand in brackets.
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth > 0 => {}
            _ => names.push(letter),
        }
    }
    names.split(',').all(|name| HARMLESS.contains(&name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: &str = "max_execution_time\t20\nmax_memory_usage\t500000000\nmax_result_bytes\t67108864\n\
                       max_result_rows\t1000000\nreadonly\t1\n";

    #[test]
    fn a_user_that_only_reads_within_bounds_is_fit() {
        let grants = "GRANT SELECT ON etcdmon.* TO sql\nGRANT SHOW TABLES, SELECT(a, b) ON etcdmon.metrics TO sql\n\
                      REVOKE SELECT ON etcdmon.secret FROM sql\n";
        assert_eq!(judge(grants, FIT), Ok(()));
    }

    #[test]
    fn one_that_may_more_is_not() {
        for grant in [
            "GRANT SELECT, INSERT ON etcdmon.* TO sql",
            "GRANT ALL ON *.* TO sql",
            "GRANT FILE ON *.* TO sql",
            "GRANT SELECT ON etcdmon.* TO sql WITH GRANT OPTION",
            "GRANT admin TO sql",
            "GRANT READ ON URL TO sql",
            "nonsense",
        ] {
            assert!(matches!(judge(grant, FIT), Err(Unfit::Rights(_))), "{grant}");
        }
    }

    #[test]
    fn one_whose_profile_has_no_bounds_is_not() {
        let writable = FIT.replace("readonly\t1", "readonly\t0");
        assert_eq!(judge("", &writable), Err(Unfit::Writable("0".to_owned())));
        assert_eq!(judge("", ""), Err(Unfit::Writable(String::new())));
        let unbounded = FIT.replace("max_memory_usage\t500000000", "max_memory_usage\t0");
        assert_eq!(judge("", &unbounded), Err(Unfit::Unbounded("max_memory_usage")));
    }
}
