"""Rows of files, as text."""

HEADER = (
    "transaction_id,created_at,amount,currency,source_wallet_id,destination_wallet_id,"
    "transaction_type,is_fraud"
)
GOOD = {
    "transaction_id": "t1",
    "created_at": "2026-01-01T10:00:00Z",
    "amount": "12.5",
    "currency": "PYC",
    "source_wallet_id": "w1",
    "destination_wallet_id": "w2",
    "transaction_type": "PAYMENT",
    "is_fraud": "false",
}
PAYSIM_HEADER = (
    "step,type,amount,nameOrig,oldbalanceOrg,newbalanceOrig,nameDest,oldbalanceDest,"
    "newbalanceDest,isFraud,isFlaggedFraud"
)


def line(number, **changes):
    """One row as text; values are written as they are."""
    return ",".join({**GOOD, "transaction_id": f"t{number}", **changes}.values())


def text(*lines, header=HEADER):
    return ("\n".join([header, *lines]) + "\n").encode()


PAYSIM_ROWS = (
    "1,PAYMENT,9839.64,C1,170136.0,160296.36,M1,0.0,0.0,0,0",
    "1,CASH_IN,100.00,C2,0.0,100.0,C3,0.0,0.0,0,0",
    "26,TRANSFER,181.0,C4,181.0,0.0,C5,0.0,0.0,1,0",
)
