use super::*;

#[test]
fn the_pseudo_agent_has_a_lasting_id_of_its_installation() {
    let installation = Uuid::from_u128(7);
    assert_eq!(pseudo_agent(installation), pseudo_agent(installation));
    assert_ne!(pseudo_agent(installation), pseudo_agent(Uuid::from_u128(8)));
    assert_ne!(pseudo_agent(installation), installation);
}
