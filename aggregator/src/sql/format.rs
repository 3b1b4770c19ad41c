//! Formats of answers: the engine's names, what is asked for in short, and what a client is told.

/// Formats that an answer may have. Others need files beside them, or are only meant for input.
const FORMATS: [(&str, &str); 38] = [
    ("JSON", JSON),
    ("JSONCompact", JSON),
    ("JSONStrings", JSON),
    ("JSONCompactStrings", JSON),
    ("JSONColumns", JSON),
    ("JSONColumnsWithMetadata", JSON),
    ("JSONCompactColumns", JSON),
    ("JSONObjectEachRow", JSON),
    ("JSONEachRow", LINES),
    ("JSONLines", LINES),
    ("NDJSON", LINES),
    ("JSONStringsEachRow", LINES),
    ("JSONCompactEachRow", LINES),
    ("JSONCompactEachRowWithNames", LINES),
    ("JSONCompactEachRowWithNamesAndTypes", LINES),
    ("JSONCompactStringsEachRow", LINES),
    ("CSV", CSV),
    ("CSVWithNames", CSV),
    ("CSVWithNamesAndTypes", CSV),
    ("TSV", TSV),
    ("TSVWithNames", TSV),
    ("TSVWithNamesAndTypes", TSV),
    ("TSVRaw", TSV),
    ("TabSeparated", TSV),
    ("TabSeparatedWithNames", TSV),
    ("TabSeparatedWithNamesAndTypes", TSV),
    ("TabSeparatedRaw", TSV),
    ("Parquet", "application/vnd.apache.parquet"),
    ("Arrow", "application/vnd.apache.arrow.file"),
    ("ArrowStream", "application/vnd.apache.arrow.stream"),
    ("Native", BINARY),
    ("RowBinary", BINARY),
    ("RowBinaryWithNames", BINARY),
    ("RowBinaryWithNamesAndTypes", BINARY),
    ("Pretty", TEXT),
    ("PrettyCompact", TEXT),
    ("Vertical", TEXT),
    ("Null", TEXT),
];

const JSON: &str = "application/json; charset=UTF-8";
const LINES: &str = "application/x-ndjson; charset=UTF-8";
const CSV: &str = "text/csv; charset=UTF-8";
const TSV: &str = "text/tab-separated-values; charset=UTF-8";
const TEXT: &str = "text/plain; charset=UTF-8";
const BINARY: &str = "application/octet-stream";

/// A format of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format(usize);

impl Format {
    /// By the engine's name, in any case.
    pub fn by_name(name: &str) -> Option<Self> {
        FORMATS.iter().position(|(known, _)| known.eq_ignore_ascii_case(name)).map(Self)
    }

    /// By what a request asks for: `csv`, `tsv` and `arrow` mean the form with names of columns, and the one that streams; any
    /// other is the engine's name, in any case.
    pub fn asked(name: &str) -> Option<Self> {
        Self::by_name(match name {
            "csv" => "CSVWithNames",
            "tsv" => "TSVWithNames",
            "arrow" => "ArrowStream",
            _ => name,
        })
    }

    /// The engine's name.
    pub fn name(self) -> &'static str {
        FORMATS[self.0].0
    }

    /// The Content-Type of an answer.
    pub fn content_type(self) -> &'static str {
        FORMATS[self.0].1
    }

    /// All names, for a sentence.
    pub fn names() -> String {
        FORMATS.map(|(name, _)| name).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_names_and_a_few_short_ones() {
        assert_eq!(Format::asked("csv").unwrap().name(), "CSVWithNames");
        assert_eq!(Format::asked("CSV").unwrap().name(), "CSV");
        assert_eq!(Format::by_name("csv").unwrap().name(), "CSV");
        assert_eq!(Format::asked("jsoneachrow").unwrap().name(), "JSONEachRow");
        assert_eq!(Format::asked("Parquet").unwrap().content_type(), "application/vnd.apache.parquet");
        for bad in ["Template", "SQLInsert", "Protobuf", "", "CSV INTO OUTFILE 'x'"] {
            assert_eq!(Format::asked(bad), None, "{bad}");
        }
    }
}
