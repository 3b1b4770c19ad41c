use super::super::text::Format;
use super::*;

fn sample(name: &str, labels: &str, kind: &'static str, value: f64) -> Newest {
    Newest {
        cluster: Uuid::from_u128(7),
        member: 0xa1,
        agent: Uuid::nil(),
        name: name.into(),
        labels: labels.into(),
        kind,
        value,
    }
}

fn text(samples: Vec<Newest>) -> String {
    let mut families = Families::default();
    sampled(&mut families, &View::default(), samples);
    Format::Prometheus.write(&families.into_vec())
}

#[test]
fn a_histogram_is_put_together_in_order() {
    let text = text(vec![
        sample("x_seconds_count", "{}", "counter", 3.0),
        sample("x_seconds_bucket", r#"{"le":"+Inf"}"#, "counter", 3.0),
        sample("x_seconds_bucket", r#"{"le":"0.002"}"#, "counter", 2.0),
        sample("x_seconds_bucket", r#"{"le":"0.001"}"#, "counter", 1.0),
        sample("x_seconds_sum", "{}", "counter", 0.5),
        sample("y_count", "{}", "counter", 9.0),
    ]);
    let of = r#"cluster_id="00000000-0000-0000-0000-000000000007",member="00000000000000a1""#;
    for line in [
        "# TYPE x_seconds histogram".to_owned(),
        format!(
            "x_seconds_bucket{{{of},le=\"0.001\"}} 1\nx_seconds_bucket{{{of},le=\"0.002\"}} 2\nx_seconds_bucket{{{of},le=\"+Inf\"}} 3\nx_seconds_sum{{{of}}} 0.5\nx_seconds_count{{{of}}} 3"
        ),
        "# TYPE y_count counter".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[test]
fn a_histogram_that_lacks_a_part_is_left_out() {
    let bucket = |bound: &str, value| sample("x_bucket", &format!(r#"{{"le":"{bound}"}}"#), "counter", value);
    let count = || sample("x_count", "{}", "counter", 3.0);
    let sum = || sample("x_sum", "{}", "counter", 0.5);
    for incomplete in [
        vec![bucket("1", 1.0), count(), sum()],
        vec![bucket("+Inf", 3.0), count()],
        vec![bucket("+Inf", 2.0), count(), sum()],
        vec![bucket("1", 5.0), bucket("2", 4.0), bucket("+Inf", 3.0), count(), sum()],
    ] {
        assert_eq!(text(incomplete), "");
    }
    assert!(!text(vec![bucket("1", 1.0), bucket("+Inf", 3.0), count(), sum()]).is_empty());
}

#[test]
fn nodes_and_foreign_labels_keep_apart_from_ours() {
    let node = Newest {
        cluster: Uuid::nil(),
        member: 0,
        agent: Uuid::from_u128(5),
        ..sample("n", "{}", "gauge", 1.0)
    };
    assert!(text(vec![node]).contains("n{agent=\"00000000-0000-0000-0000-000000000005\"} 1"));
    let taken = text(vec![sample("m", r#"{"member":"x","To":"y"}"#, "gauge", 1.0)]);
    assert!(taken.contains(r#"To="y""#) && taken.contains(r#"exported_member="x""#), "{taken}");
    assert!(taken.contains(r#",member="00000000000000a1""#), "{taken}");
}
