//! The names of metrics that are about one client: `client-003/accuracy`.

/// The name under which a record keeps a client's metric.
pub fn of_client(client: u32, name: &str) -> String {
    format!("client-{client:03}/{name}")
}

/// The client that a record's metric is about, if it is about one, and what it is.
pub fn split(kept: &str) -> (Option<u32>, &str) {
    let parts = kept.strip_prefix("client-").and_then(|rest| rest.split_once('/'));
    match parts.and_then(|(number, name)| Some((number.parse().ok()?, name))) {
        Some((client, name)) => (Some(client), name),
        None => (None, kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart_as_they_were_put_together() {
        for client in [0, 7, 1234] {
            assert_eq!(split(&of_client(client, "accuracy")), (Some(client), "accuracy"));
        }
        assert_eq!(of_client(3, "loss"), "client-003/loss");
        assert_eq!(split("accuracy"), (None, "accuracy"));
        assert_eq!(split("e_agg/q_proj"), (None, "e_agg/q_proj"));
        assert_eq!(split("client-x/loss"), (None, "client-x/loss"));
    }
}
