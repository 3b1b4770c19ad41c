//! What container runtimes put around a line: CRI's `time stream P|F text` and Docker's `{"log":…,"stream":…,"time":…}`.
//!
//! A long line comes in parts, by stream; they are joined. Parts of the two streams may alternate.

use std::borrow::Cow;

use super::tail::LINE_LIMIT;

/// Joins parts. What is of neither form is handed out as it is.
#[derive(Debug, Default)]
pub struct Unframer {
    parts: [Part; 2],
}

#[derive(Debug, Default)]
struct Part {
    bytes: Vec<u8>,
    too_long: bool,
}

/// What came of a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Unframed<'a> {
    /// A line of the container.
    Line(Cow<'a, [u8]>),
    /// A part: the rest follows.
    Part,
    /// The end of a line that is too long.
    TooLong,
}

#[derive(serde::Deserialize)]
struct DockerLine<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
}

impl Unframer {
    /// Takes the next line of the file.
    pub fn take<'a>(&mut self, line: &'a [u8]) -> Unframed<'a> {
        if line.starts_with(b"{\"log\":") {
            let Ok(docker) = serde_json::from_slice::<DockerLine<'a>>(line) else {
                return Unframed::Line(Cow::Borrowed(line));
            };
            let part = &mut self.parts[usize::from(docker.stream == "stderr")];
            let whole = docker.log.ends_with('\n');
            let text = docker.log.trim_end_matches('\n').as_bytes();
            return match (whole, part.bytes.is_empty() && !part.too_long) {
                (true, true) => Unframed::Line(Cow::Owned(text.to_vec())),
                (whole, _) => part.add(text, whole),
            };
        }
        match cri(line) {
            None => Unframed::Line(Cow::Borrowed(line)),
            Some((stderr, whole, text)) => {
                let part = &mut self.parts[usize::from(stderr)];
                match (whole, part.bytes.is_empty() && !part.too_long) {
                    (true, true) => Unframed::Line(Cow::Borrowed(text)),
                    (whole, _) => part.add(text, whole),
                }
            }
        }
    }
}

impl Part {
    fn add<'a>(&mut self, text: &[u8], whole: bool) -> Unframed<'a> {
        self.too_long |= self.bytes.len() + text.len() > LINE_LIMIT;
        if self.too_long {
            self.bytes.clear();
        } else {
            self.bytes.extend_from_slice(text);
        }
        match (whole, self.too_long) {
            (false, _) => Unframed::Part,
            (true, false) => Unframed::Line(Cow::Owned(std::mem::take(&mut self.bytes))),
            (true, true) => {
                self.too_long = false;
                Unframed::TooLong
            }
        }
    }
}

/// (is stderr, is the last part, text).
fn cri(line: &[u8]) -> Option<(bool, bool, &[u8])> {
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let time = words.next()?;
    if time.len() < 20 || time[4] != b'-' || time[10] != b'T' {
        return None;
    }
    let stderr = match words.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    // Tags may be several, separated by colons; the first says whether it is whole.
    let whole = match words.next()?.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some((stderr, whole, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[&str]) -> Vec<String> {
        let mut unframer = Unframer::default();
        let taken = input.iter().filter_map(|line| match unframer.take(line.as_bytes()) {
            Unframed::Line(line) => Some(String::from_utf8_lossy(&line).into_owned()),
            Unframed::Part => None,
            Unframed::TooLong => Some("too long".to_owned()),
        });
        taken.collect()
    }

    #[test]
    fn cri_lines_are_unwrapped_and_parts_joined_by_stream() {
        let found = lines(&[
            "2026-11-21T12:00:00.000000001Z stderr F {\"level\":\"info\"}",
            "2026-11-21T12:00:00.000000002Z stderr P one ",
            "2026-11-21T12:00:00.000000003+01:00 stdout F other",
            "2026-11-21T12:00:00.000000004Z stderr P two ",
            "2026-11-21T12:00:00.000000005Z stderr F:x three",
            "2026-11-21T12:00:00.000000006Z stderr F ",
        ]);
        assert_eq!(found, ["{\"level\":\"info\"}", "other", "one two three", ""]);
    }

    #[test]
    fn docker_lines_are_unwrapped_and_parts_joined() {
        let found = lines(&[
            r#"{"log":"{\"level\":\"info\"}\n","stream":"stderr","time":"2026-11-21T12:00:00.1Z"}"#,
            r#"{"log":"one ","stream":"stderr","time":"2026-11-21T12:00:00.1Z"}"#,
            r#"{"log":"two\n","stream":"stderr","time":"2026-11-21T12:00:00.1Z"}"#,
        ]);
        assert_eq!(found, ["{\"level\":\"info\"}", "one two"]);
    }

    #[test]
    fn what_has_no_frame_stays_as_it_is() {
        let plain = [
            "",
            "{\"log\":",
            "{\"level\":\"info\",\"msg\":\"x\"}",
            "2026-11-21 12:26:35.619 I | embed: x",
            "2026-11-21T12:00:00.000000001Z stderr",
            "2026-11-21T12:00:00.000000001Z elsewhere F x",
        ];
        assert_eq!(lines(&plain), plain);
    }

    #[test]
    fn too_long_a_line_is_counted_once_and_the_next_is_whole() {
        let part = format!("2026-11-21T12:00:00.000000001Z stderr P {}", "x".repeat(16 << 10));
        let mut input = vec![part.as_str(); 6];
        input.push("2026-11-21T12:00:00.000000001Z stderr F end");
        input.push("2026-11-21T12:00:00.000000001Z stderr F next");
        assert_eq!(lines(&input), ["too long", "next"]);
    }
}
