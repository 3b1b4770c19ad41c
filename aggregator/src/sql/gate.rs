//! What a user's statement may name: decided on the tree that the engine's own parser makes of it (`EXPLAIN AST`), with
//! every parameter put in, before anything runs.
//!
//! Everything is an allow-list: kinds of nodes, tables, functions, table functions. The tree is read line by line, and a
//! line is only ever held against the statement: a name with a line break in it makes further lines and can hide none,
//! because what follows it still begins with its own kind.
//!
//! Functions are those that look at nothing but their arguments and grow no faster than them: `file('/etc/passwd')` reads
//! the host even where `file` as a source is revoked and `readonly` is set.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Functions, lower case.
const FUNCTIONS: &str = include_str!("functions.txt");

/// Aggregate and window functions, lower case; these can carry [`COMBINATORS`].
const AGGREGATES: &str = include_str!("aggregates.txt");

/// Suffixes of aggregate functions, lower case.
const COMBINATORS: [&str; 15] = [
    "simplestate",
    "ordefault",
    "distinct",
    "resample",
    "foreach",
    "argmax",
    "argmin",
    "ornull",
    "tuple",
    "merge",
    "state",
    "array",
    "null",
    "map",
    "if",
];

/// Table functions that make rows out of nothing, lower case.
const TABLE_FUNCTIONS: [&str; 8] =
    ["numbers", "numbers_mt", "generate_series", "generateseries", "values", "view", "null", "primes"];

/// Databases that are not the telemetry's; a name that begins with one of them is refused wherever it stands, because
/// `x IN system.tables` looks like a column.
const FOREIGN: [&str; 4] = ["system", "information_schema", "default", "_temporary_and_external_tables"];

/// Kinds of nodes that carry no name of their own that matters.
const PLAIN: [&str; 26] = [
    "SelectWithUnionQuery",
    "SelectIntersectExceptQuery",
    "SelectQuery",
    "ExpressionList",
    "Subquery",
    "WithElement",
    "TablesInSelectQuery",
    "TablesInSelectQueryElement",
    "TableExpression",
    "TableJoin",
    "ArrayJoin",
    "Asterisk",
    "QualifiedAsterisk",
    "ColumnsRegexpMatcher",
    "ColumnsListMatcher",
    "QualifiedColumnsRegexpMatcher",
    "QualifiedColumnsListMatcher",
    "ColumnsTransformerList",
    "ColumnsExceptTransformer",
    "ColumnsReplaceTransformer",
    "ColumnsReplaceTransformer::Replacement",
    "OrderByElement",
    "InterpolateElement",
    "SampleRatio",
    "WindowDefinition",
    "WindowListElement",
];

static FUNCTION_NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| FUNCTIONS.split_whitespace().collect());
static AGGREGATE_NAMES: LazyLock<HashSet<&str>> = LazyLock::new(|| AGGREGATES.split_whitespace().collect());

/// A statement that is not run, and why: a sentence for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// What the tree says about a statement that may run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The format that its FORMAT clause names.
    pub format: Option<String>,
}

/// Judges a tree, one line of it each item.
///
/// # Errors
/// When it holds something that is not allowed, in the words for the author of the statement.
pub fn judge<'a>(tree: impl IntoIterator<Item = &'a str>, database: &str) -> Result<Verdict, Refusal> {
    let mut verdict = Verdict::default();
    let mut before = "";
    for (number, line) in tree.into_iter().enumerate() {
        let node = line.trim_start_matches(' ');
        let depth = line.len() - node.len();
        let (kind, rest) = node.split_once(' ').unwrap_or((node, ""));
        if number == 0 && (kind != "SelectWithUnionQuery" || depth != 0) {
            return Err(refusal(
                "only SELECT is answered here; tables are listed by SELECT * FROM system.tables",
            ));
        }
        match kind {
            // Beside the query itself stand its FORMAT and the file of INTO OUTFILE.
            "Identifier" if depth == 1 => verdict.format = Some(name(rest).to_owned()),
            "Literal" if depth == 1 => return Err(refusal("INTO OUTFILE is not answered here")),
            "Identifier" => column(name(rest), database)?,
            "TableIdentifier" => table(name(rest), database)?,
            "Function" if before == "TableExpression" => table_function(name(rest))?,
            "Function" => function(name(rest))?,
            "Literal" => {}
            "Set" => {
                return Err(refusal(
                    "a SETTINGS clause is not allowed here: limits and format are parameters of the request",
                ));
            }
            "ColumnsApplyTransformer" => return Err(refusal("APPLY is not allowed here: name the columns")),
            "ASTStreamSettings" => return Err(refusal("STREAM is not allowed here: an answer has an end")),
            _ if PLAIN.contains(&kind) => {}
            _ => return Err(refusal(format!("{kind:?} is not allowed here, nor is a line break in a name"))),
        }
        before = kind;
    }
    if before.is_empty() {
        return Err(refusal("there is no statement"));
    }
    Ok(verdict)
}

/// Whether the engine's function of this name may be called.
pub fn is_allowed(function: &str) -> bool {
    let name = function.to_lowercase();
    FUNCTION_NAMES.contains(name.as_str()) || is_aggregate(&name)
}

fn is_aggregate(name: &str) -> bool {
    AGGREGATE_NAMES.contains(name)
        || COMBINATORS.iter().any(|suffix| {
            name.strip_suffix(suffix).is_some_and(|base| !base.is_empty() && is_aggregate(base))
        })
}

fn refusal(text: impl Into<String>) -> Refusal {
    Refusal(text.into())
}

/// The node's own name, without its alias and the number of its children.
fn name(rest: &str) -> &str {
    let end = [" (alias ", " (children "].iter().filter_map(|mark| rest.find(mark)).min();
    &rest[..end.unwrap_or(rest.len())]
}

fn column(name: &str, database: &str) -> Result<(), Refusal> {
    match name.split_once('.') {
        Some((first, _)) if is_foreign(first, database) => Err(foreign(name, database)),
        _ => Ok(()),
    }
}

/// A name without a database is a table of ours or a part of the statement itself.
fn table(name: &str, database: &str) -> Result<(), Refusal> {
    match name.split_once('.') {
        Some((first, _)) if first != database => Err(foreign(name, database)),
        _ => Ok(()),
    }
}

fn is_foreign(first: &str, database: &str) -> bool {
    first != database && FOREIGN.contains(&first.to_lowercase().as_str())
}

fn foreign(name: &str, database: &str) -> Refusal {
    refusal(format!(
        "{name:?} is not to be had here: only tables of the database {database:?}, and of the system tables settings, \
         databases, tables and columns"
    ))
}

fn table_function(name: &str) -> Result<(), Refusal> {
    if TABLE_FUNCTIONS.contains(&name.to_lowercase().as_str()) {
        return Ok(());
    }
    Err(refusal(format!(
        "the table function {name:?} is not allowed here; these are: {}",
        TABLE_FUNCTIONS.join(", ")
    )))
}

fn function(name: &str) -> Result<(), Refusal> {
    if is_allowed(name) {
        return Ok(());
    }
    Err(refusal(format!(
        "the function {name:?} is not allowed here: functions are those that look at nothing but their arguments; see \
         docs/sql.md"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(tree: &str) -> Result<Verdict, String> {
        judge(tree.lines(), "etcdmon").map_err(|Refusal(text)| text)
    }

    fn select(inner: &str) -> String {
        format!(
            "SelectWithUnionQuery (children 1)\n ExpressionList (children 1)\n  SelectQuery (children 1)\n   {inner}"
        )
    }

    #[test]
    fn what_telemetry_is_asked_with_passes() {
        for inner in [
            "Function quantilesTDigestIf (alias q) (children 2)",
            "Function countIf (children 1)",
            "Function sumMapMerge",
            "Function toStartOfInterval (children 1)",
            "TableIdentifier etcdmon.metrics (alias m)",
            "TableIdentifier metrics",
            "Identifier m.value",
            "Literal '\\n Function file'",
            "TableExpression (children 1)\n    Function numbers (children 1)",
        ] {
            assert_eq!(judged(&select(inner)), Ok(Verdict::default()), "{inner}");
        }
    }

    #[test]
    fn what_looks_elsewhere_does_not() {
        for inner in [
            "Function file (children 1)",
            "Function FILE (alias count) (children 1)",
            "Function sleep",
            "Function dictGet",
            "Function If",
            "Function hostName",
            "TableExpression (children 1)\n    Function format (children 1)",
            "TableExpression (children 1)\n    Function viewExplain (children 1)",
            "TableIdentifier system.one",
            "TableIdentifier default./etc/passwd",
            "TableIdentifier Etcdmon.metrics",
            "Identifier system.tables",
            "Identifier SYSTEM.tables (alias x)",
            "ColumnsApplyTransformer",
            "Set",
            "SomethingNew (children 1)",
            ")",
        ] {
            // `if` is a function of its own, and no suffix of nothing.
            let expected = inner == "Function If";
            assert_eq!(judged(&select(inner)).is_ok(), expected, "{inner}");
        }
    }

    #[test]
    fn format_and_outfile_stand_beside_the_query() {
        let with_format = format!("{}\n Identifier CSV", select("Literal UInt64_1"));
        assert_eq!(judged(&with_format), Ok(Verdict { format: Some("CSV".to_owned()) }));
        assert!(judged(&format!("{}\n Literal '/tmp/x'", select("Literal UInt64_1"))).is_err());
    }

    #[test]
    fn only_a_query_is_a_query() {
        for tree in [
            "",
            "ShowTables (children 1)",
            "ParallelWithQuery 2 SelectWithUnionQuery (children 2)",
            " SelectQuery",
        ] {
            assert!(judged(tree).is_err(), "{tree}");
        }
    }

    #[test]
    fn a_database_of_ours_may_be_called_default() {
        assert!(judge(select("TableIdentifier default.metrics").lines(), "default").is_ok());
        assert!(judge(select("Identifier default.metrics").lines(), "default").is_ok());
    }
}
