//! What can be wrong between stages: names that lead nowhere, edges of the wrong kind, circles.

use indexmap::IndexMap;
use stages::{
    check::Complaint,
    edge,
    node::{self, Node},
};

use super::diagnose::near;

/// Complaints about the edges between nodes; none means that [`order`] has an answer.
pub fn edges(nodes: &IndexMap<String, Node>) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (name, node) in nodes {
        edge::edges(&node.fields(), name, &mut |path, to, kind| {
            complaints.extend(wrong(nodes, path, to, kind));
        });
    }
    if complaints.is_empty()
        && let Err(circle) = order(nodes)
    {
        complaints.push(circle);
    }
    complaints
}

fn wrong(nodes: &IndexMap<String, Node>, path: &str, to: &str, kind: &str) -> Option<Complaint> {
    let complaint = |message: String, label: &str, help: Option<String>| {
        Some(Complaint { path: path.to_owned(), message, label: label.to_owned(), help })
    };
    match nodes.get(to) {
        None => {
            let names: Vec<&str> = nodes.keys().map(String::as_str).collect();
            let help = match near(to, &names) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the stages are: {}", listed(&names)),
            };
            complaint(format!("no stage is called `{to}`"), "unknown stage", Some(help))
        }
        Some(node) if node.makes() != kind => {
            let fit = nodes.iter().filter(|(_, n)| n.makes() == kind).map(|(n, _)| n.as_str());
            let fit: Vec<&str> = fit.collect();
            let help = if fit.is_empty() {
                let stages =
                    node::makers(kind).iter().map(|s| format!("`{s}`")).collect::<Vec<_>>();
                format!("{kind} comes from {}, and no stage here is one", stages.join(" or "))
            } else {
                format!("{kind} comes from: {}", listed(&fit))
            };
            let message = format!("`{to}` makes {}, but {kind} is needed here", node.makes());
            complaint(message, "of another kind", Some(help))
        }
        Some(_) => None,
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The names of all nodes, each after those that it has edges to.
///
/// # Errors
/// The nodes form a circle.
pub fn order(nodes: &IndexMap<String, Node>) -> Result<Vec<String>, Complaint> {
    let mut needs: IndexMap<&str, Vec<String>> = IndexMap::new();
    for (name, node) in nodes {
        let mut to = Vec::new();
        edge::names(&node.fields(), &mut |target| to.push(target.to_owned()));
        needs.insert(name, to);
    }
    let mut done: Vec<String> = Vec::with_capacity(nodes.len());
    while done.len() < nodes.len() {
        let ready = needs.iter().find(|(name, to)| {
            !done.iter().any(|d| d == **name)
                && to.iter().all(|t| done.contains(t) || !nodes.contains_key(t))
        });
        match ready {
            Some((name, _)) => done.push((*name).to_owned()),
            None => return Err(circle(&needs, &done)),
        }
    }
    Ok(done)
}

fn circle(needs: &IndexMap<&str, Vec<String>>, done: &[String]) -> Complaint {
    let mut walk: Vec<&str> = Vec::new();
    let mut at = needs.keys().find(|name| !done.iter().any(|d| d == **name)).copied().unwrap_or("");
    // Every node that is left needs another that is left, so the walk comes back to itself.
    while !walk.contains(&at) {
        walk.push(at);
        let next = needs[at].iter().find(|to| !done.contains(to)).map_or("", String::as_str);
        at = needs.keys().find(|name| **name == next).copied().unwrap_or(at);
    }
    let start = walk.iter().position(|name| *name == at).unwrap_or(0);
    let mut names: Vec<&str> = walk[start..].to_vec();
    names.push(at);
    Complaint {
        path: at.to_owned(),
        message: format!("these stages wait for one another: {}", names.join(" -> ")),
        label: "in a circle".to_owned(),
        help: None,
    }
}
