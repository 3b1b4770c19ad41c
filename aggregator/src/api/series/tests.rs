use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_ipc::reader::StreamReader;
use axum::http::header::ACCEPT;
use http_body_util::BodyExt;
use uuid::Uuid;

use super::*;
use crate::query::{Gap as Missing, Plan, Resolution, Series};
use crate::store::Retention;

fn history() -> History {
    let plan =
        Plan { resolution: Resolution::Raw, step: 15, from: 1_795_255_200, to: 1_795_255_230, now_ns: 0 };
    let series = |name: &str, columns: Vec<(&'static str, Vec<f64>)>| Series {
        cluster: Uuid::from_u128(5),
        offset_seconds: 0,
        name: name.to_owned(),
        member: 0xa1,
        agent: None,
        labels: BTreeMap::from([("a".to_owned(), "x\"y,z".to_owned())]),
        columns,
        gaps: Vec::new(),
        live_from: None,
    };
    let mut holed = series("holed", vec![("mean", vec![0.1, f64::NAN]), ("last", vec![2e300, f64::NAN])]);
    let missing = Missing {
        from: 1_795_255_215,
        to: 1_795_255_230,
        reason: "attach".to_owned(),
        lost: 3,
        partial: false,
    };
    holed.gaps.push(missing);
    holed.live_from = Some(1_795_255_215);
    History { plan, series: vec![holed, series("whole", vec![("per_second", vec![1.0, f64::INFINITY])])] }
}

async fn body(history: History, format: Format) -> Vec<u8> {
    let response = render::respond(history, format);
    assert!(response.headers().contains_key("content-type"));
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

#[tokio::test]
async fn json_has_null_where_nothing_is_known() {
    let answer: HistoryAnswer = serde_json::from_slice(&body(history(), Format::Json).await).unwrap();
    assert_eq!((answer.step_seconds, answer.resolution.as_str()), (15, "raw"));
    assert_eq!(answer.at, [1_795_255_200, 1_795_255_215]);
    let (holed, whole) = (&answer.series[0], &answer.series[1]);
    assert_eq!(holed.values["mean"], [Some(0.1), None]);
    assert_eq!((holed.member.as_str(), holed.gaps[0].reason.as_str()), ("00000000000000a1", "attach"));
    assert_eq!(whole.values["per_second"], [Some(1.0), None], "no infinity in JSON");
    let nothing = History { series: Vec::new(), ..history() };
    let answer: HistoryAnswer = serde_json::from_slice(&body(nothing, Format::Json).await).unwrap();
    assert!(answer.series.is_empty());
    let described: HistoryAnswer = serde_json::from_value(example()).unwrap();
    assert_eq!(described.at.len(), described.series[0].values["increase"].len());
}

#[tokio::test]
async fn csv_has_a_line_a_step_with_the_columns_of_all_series() {
    let text = String::from_utf8(body(history(), Format::Csv).await).unwrap();
    let mut lines = text.split("\r\n");
    let head = "at,cluster,offset_seconds,name,member,agent,labels,mean,last,per_second,gap";
    assert_eq!(lines.next(), Some(head));
    let first = "2026-11-21T10:00:00Z,00000000-0000-0000-0000-000000000005,0,holed,00000000000000a1,,\
                 \"{\"\"a\"\":\"\"x\\\"\"y,z\"\"}\",0.1,";
    assert!(lines.next().unwrap().starts_with(first), "{text}");
    assert!(lines.next().unwrap().ends_with(",,,,attach"), "{text}");
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let records: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!((records.len(), records[2].get(9)), (4, Some("1.0")));
    let labels: BTreeMap<String, String> = serde_json::from_str(records[0].get(6).unwrap()).unwrap();
    assert_eq!(labels["a"], "x\"y,z");
}

#[tokio::test]
async fn arrow_is_a_stream_of_a_batch_a_series() {
    let bytes = body(history(), Format::Arrow).await;
    let batches: Vec<_> =
        StreamReader::try_new(bytes.as_slice(), None).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).collect::<Vec<_>>(), [2, 2]);
    let mean = batches[0].column_by_name("mean").unwrap().as_primitive::<Float64Type>();
    assert_eq!(mean.iter().collect::<Vec<_>>(), [Some(0.1), None]);
    let none = batches[1].column_by_name("mean").unwrap().as_primitive::<Float64Type>();
    assert_eq!(none.iter().collect::<Vec<_>>(), [None, None]);
    let gap = batches[0].column_by_name("gap").unwrap().as_string::<i32>();
    assert_eq!(gap.iter().collect::<Vec<_>>(), [None, Some("attach")]);
    let live = batches[0].column_by_name("live").unwrap().as_boolean();
    assert_eq!(live.iter().collect::<Vec<_>>(), [Some(false), Some(true)]);
}

#[test]
fn a_format_is_chosen_by_parameter_or_header() {
    let by = |accept: &str| {
        let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
        Format::choose(None, &headers)
    };
    assert_eq!(Format::choose(Some("arrow"), &HeaderMap::new()).unwrap(), Format::Arrow);
    assert_eq!(Format::choose(None, &HeaderMap::new()).unwrap(), Format::Json);
    assert_eq!(by("text/html,application/xhtml+xml,*/*;q=0.8").unwrap(), Format::Json);
    assert_eq!(by("text/csv;q=1").unwrap(), Format::Csv);
    assert_eq!(by("application/vnd.apache.arrow.stream").unwrap(), Format::Arrow);
    assert_eq!(by("image/png").unwrap_err().status, 406);
    assert_eq!(Format::choose(Some("xml"), &HeaderMap::new()).unwrap_err().status, 400);
}

#[test]
fn what_does_not_fit_names_the_parameter() {
    let now = chrono::DateTime::from_timestamp(1_795_255_200, 0).unwrap();
    let plans = |common: Common<'_>| common.plans(&Retention::default(), now);
    let common = Common::default();
    for (common, expected) in [
        (Common { step: Some("fast"), ..common }, "step: \"fast\""),
        (Common { step: Some("0"), ..common }, "step: must be"),
        (
            Common { step: Some("1"), from: Some("-1d"), ..common },
            "step: 86400 points a series are more than 11000",
        ),
        (Common { max_points: Some(0), ..common }, "max-points: 0"),
        (
            Common { offset: Some("1d"), compare_from: Some("-2d"), ..common },
            "compare-from: there is an offset",
        ),
        (Common { compare_from: Some("-30m"), ..common }, "compare-from: the second time must lie before"),
        (Common { offset: Some("0"), ..common }, "compare-from: the second time must lie before"),
        (Common { offset: Some("40d"), ..common }, "offset: so long ago"),
        (Common { offset: Some("999w"), from: Some("60"), to: Some("120"), ..common }, "offset: so long ago"),
    ] {
        let problem = plans(common).expect_err(expected);
        assert!(problem.status == 400 && problem.detail.contains(expected), "{problem:?}");
    }
    let (plan, earlier) = plans(Common { offset: Some("1d"), ..common }).unwrap();
    assert_eq!(earlier.unwrap().from, plan.from - 86_400);
    let (plan, earlier) = plans(Common { compare_from: Some("-2h"), ..common }).unwrap();
    assert_eq!(earlier.unwrap().from, plan.from - 3_600);
    let refused = |problem: Problem, expected: &str| {
        assert!(problem.status == 400 && problem.detail.starts_with(expected), "{problem:?}");
    };
    let some = |text: &str| Some(text.to_owned());
    refused(metric_scope("", &None, &None, common).unwrap_err(), "name: ");
    refused(metric_scope("a", &some("sum"), &None, common).unwrap_err(), "as: \"sum\"");
    refused(metric_scope("a", &None, &some("le"), common).unwrap_err(), "where: \"le\"");
    refused(sync_scope(&some("wall"), &None, common).unwrap_err(), "class: \"wall\"");
    refused(sync_scope(&None, &some("node"), common).unwrap_err(), "by: \"node\"");
    refused(others_scope(&None, Some(101), common).unwrap_err(), "top: 101");
    refused(resource_question(&some("cpu"), common).unwrap_err(), "group: \"cpu\"");
    let by = |by: &str| sync_scope(&None, &some(by), common).unwrap().apart;
    assert_eq!((by("class").members, by("class").classes, by("cluster").classes), (false, true, false));
}
